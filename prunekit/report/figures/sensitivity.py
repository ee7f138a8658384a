"""Accuracy against the sparsity of one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.report.figures.style import (
    End,
    dress,
    label_ends,
    literal,
    new_figure,
    styles,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 8
"""More layers than there are colours are rows of a heat map."""


def sensitivity_picture(name: str, document: Mapping[str, Any]) -> Figure:
    """Lines for few layers, a heat map for many.

    Args:
        name: of the run.
        document: `accuracy`, a share, of the model as it is, and `layers`, each with its `name` and
            `points`: `sparsity` and `accuracy`, shares.
    """
    layers = {
        str(one["name"]): [
            (100 * float(p["sparsity"]), 100 * float(p["accuracy"])) for p in one["points"]
        ]
        for one in document["layers"]
    }
    if not layers:
        raise ValueError("no layer")
    base = 100 * float(document["accuracy"])
    title = f"{name}: one layer pruned at a time"
    if len(layers) <= MOST_LINES:
        figure = new_figure(8.4, 4.6)
        _lines(figure.subplots(), layers, base)
    else:
        figure = new_figure(8.4, max(3.0, 0.19 * len(layers) + 1.3))
        _map(figure.subplots(), layers)
    figure.suptitle(literal(title), fontsize=10, x=0.01, ha="left")
    return figure


def _lines(axis: Axes, layers: Mapping[str, list[tuple[float, float]]], base: float) -> None:
    looks = styles(list(layers))
    ends = []
    for name, points in layers.items():
        ordered = sorted(points)
        axis.plot([x for x, _ in ordered], [y for _, y in ordered], markersize=4, **looks[name])
        ends.append(End(name, *ordered[-1], str(looks[name]["color"])))
    axis.axhline(base, color="#8a8a8a", linewidth=1, linestyle="--")
    dress(axis, "sparsity of the layer, %", "top-1, %")
    label_ends(axis, ends, size=7.5)


def _map(axis: Axes, layers: Mapping[str, list[tuple[float, float]]]) -> None:
    tried = sorted({x for points in layers.values() for x, _ in points})
    table = np.full((len(layers), len(tried)), np.nan)
    for row, points in enumerate(layers.values()):
        for x, y in points:
            table[row, tried.index(x)] = y
    image = axis.imshow(table, aspect="auto", cmap="cividis", interpolation="nearest")
    axis.set_facecolor("#d8d8d8")
    axis.set_xticks(range(len(tried)), [f"{x:g}" for x in tried])
    axis.set_yticks(range(len(layers)), [literal(name) for name in layers], fontsize=7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("sparsity of the layer, %")
    axis.figure.colorbar(image, ax=axis, label="top-1, %", pad=0.01, fraction=0.04)
