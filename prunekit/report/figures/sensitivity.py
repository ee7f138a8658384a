"""Accuracy against sparsity, layer by layer: curves, and a grid in the order of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.foundation.number_text import percent
from prunekit.report.figures.style import dress, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 10
"""Up to so many layers the curves have a legend."""
NUMBERED = 40
"""Up to so many layers each cell has its number."""


def sensitivity_picture(document: Mapping[str, Any]) -> Figure:
    """The curves beside the grid, of the plain values of `sensitivity.json`."""
    layers = document["layers"]
    figure = new_figure(11.5, max(4.2, 0.24 * len(layers) + 1.6))
    curves, grid = figure.subplots(1, 2, width_ratios=[1, 1.15])
    _curves(curves, document)
    _grid(figure, grid, document)
    title = f"each layer of {document['source']} pruned alone, no training ({document['split']})"
    figure.suptitle(literal(title), fontsize=10, x=0.01, ha="left")
    return figure


def _curves(axis: Axes, document: Mapping[str, Any]) -> None:
    from matplotlib import colormaps

    layers = document["layers"]
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    for layer, colour in zip(layers, colours, strict=True):
        across = [0.0, *(100 * point["sparsity"] for point in layer["points"])]
        up = [100 * document["top1"], *(100 * point["top1"] for point in layer["points"])]
        name = literal(_short(layer["name"]))
        axis.plot(across, up, color=colour, linewidth=1.2, marker=".", markersize=4, label=name)
    least = 100 * (document["top1"] - document["tolerance"])
    axis.axhline(least, color="#8a8a8a", linewidth=1, linestyle="--")
    axis.annotate(
        f"tolerance {percent(document['tolerance'])}", (0, least), (2, -10),
        textcoords="offset points", fontsize=8, color="#5a5a5a",
    )  # fmt: skip
    dress(axis, "sparsity of the layer, %", "top-1, %", "dark: first layers, light: last")
    axis.set_xticks([0, *(100 * point["sparsity"] for point in layers[0]["points"])])
    axis.tick_params(axis="x", labelsize=8)
    if len(layers) <= NAMED:
        axis.legend(fontsize=7, frameon=False, loc="lower left")


def _grid(figure: Figure, axis: Axes, document: Mapping[str, Any]) -> None:
    layers = document["layers"]
    lost = np.array(
        [[100 * (document["top1"] - p["top1"]) for p in layer["points"]] for layer in layers]
    )
    top = max(1.0, float(lost.max()))
    image = axis.imshow(lost, cmap="magma_r", vmin=0, vmax=top, aspect="auto")
    figure.colorbar(image, ax=axis, label="points of accuracy lost")
    shares = [f"{100 * point['sparsity']:g}" for point in layers[0]["points"]]
    axis.set_xticks(range(len(shares)), shares, fontsize=8)
    axis.set_yticks(
        range(len(layers)), [literal(_short(one["name"])) for one in layers], fontsize=7
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("sparsity of the layer, %; framed: chosen")
    for row, layer in enumerate(layers):
        for column, point in enumerate(layer["points"]):
            if len(layers) <= NUMBERED:
                ink = "white" if lost[row, column] > 0.6 * top else "black"
                text = f"{lost[row, column]:.1f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
            if point["sparsity"] == layer["chosen"]:
                _frame(axis, row, column)


def _frame(axis: Axes, row: int, column: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (column - 0.46, row - 0.44)
    axis.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor="#0a6", linewidth=1.6))


def _short(name: str) -> str:
    return name.removesuffix(".weight")
