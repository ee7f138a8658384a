"""What became of each layer over a run: density by layer and time, sparsity, flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.foundation.number_text import percent
from prunekit.report.figures.style import (
    PALETTE,
    dress,
    literal,
    new_figure,
    steps_axis,
    thousands,
)
from prunekit.runs.density_history import DensityHistory, density_history
from prunekit.runs.logged import Logged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 240
"""Places in time of the heat map."""
TICKS = (0, 1, 5, 10, 25, 50, 100)
ROW, LEAST = 0.17, 2.6
"""Inches of a layer, and of the whole map at least."""
FLIPS = "flips/"
TITLE = "Density of each masked tensor; the numbers are those at the end"
MARKED = 40
"""Up to so many updates each has a point."""
LONGEST_NAME = 44


def heat_map(axis: Axes, history: DensityHistory, last: int, title: str = TITLE) -> None:
    """Layers from top to bottom, steps from left to right, the densities at the end beside.

    Args:
        axis: of a figure with a layout of its own.
        history: the densities.
        last: the last step of the run.
        title: of the panel.
    """
    from matplotlib.colors import PowerNorm

    shares = 100 * history.every(COLUMNS, last)
    end = max(last, int(history.steps[-1]), 1)
    layers = len(history.names)
    image = axis.imshow(
        shares,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 100),  # so that a layer of 2 % is told from one of 5 %
        extent=(0.0, float(end), layers - 0.5, -0.5),
    )
    axis.set_facecolor("#d8d8d8")
    size = 7 if layers > 24 else 8
    axis.set_yticks(range(layers), short_names(history.names), fontsize=size)
    beside = axis.secondary_yaxis("right")
    kept = [percent(share) for share in history.shares[:, -1]]
    beside.set_yticks(range(layers), kept, fontsize=size)
    for side in (axis, beside):
        side.tick_params(axis="y", length=0)
        side.spines[:].set_visible(False)
    if layers <= 80:  # a line between layers
        axis.hlines(np.arange(layers - 1) + 0.5, 0, end, color="white", linewidth=0.7)
    axis.set_title(literal(title), loc="left", fontsize=10)
    axis.set_xlabel("optimizer step")
    bar = axis.figure.colorbar(image, ax=axis, ticks=TICKS, pad=0.01, fraction=0.03, aspect=30)
    bar.set_label("kept, % of its entries", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def map_height(history: DensityHistory) -> float:
    """Inches that the heat map wants."""
    return max(LEAST, ROW * len(history.names) + 0.9)


def sparsity_panel(axis: Axes, log: Logged) -> None:
    """Achieved and promised sparsity, held from update to update."""
    held: dict[str, Any] = {"drawstyle": "steps-post"}
    last = log.last
    looks: dict[str, dict[str, Any]] = {
        "achieved": {"linewidth": 3, "color": PALETTE[0]},
        "target": {"linestyle": "--", "color": PALETTE[1]},
    }
    for name, look in looks.items():
        if points := log.series(f"sparsity/{name}"):
            points = [*points, (last, points[-1][1])]
            steps, values = [p[0] for p in points], [100 * p[1] for p in points]
            axis.plot(steps, values, label=name, **look, **held)
    axis.set_ylim(0, 100)
    steps_axis(axis, last)
    dress(axis, "optimizer step", "pruned, %", "Sparsity")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def flips_panel(axis: Axes, log: Logged) -> None:
    """How many entries changed their mask at each update, a colour for each strategy."""
    tags = [tag for tag in log.keys if tag.startswith(FLIPS)]
    for number, tag in enumerate(tags):
        points = log.series(tag)
        color = PALETTE[number % len(PALETTE)]
        steps, counts = [p[0] for p in points], [p[1] for p in points]
        axis.vlines(steps, 0, counts, color=color, linewidth=1.2)
        size = 3 if len(steps) <= MARKED else 0
        axis.plot(steps, counts, "o", markersize=size, color=color)
        axis.plot([], [], "s", color=color, label=literal(tag.removeprefix(FLIPS)))
    steps_axis(axis, log.last)
    axis.set_ylim(bottom=0)
    if axis.get_ylim()[1] >= 10_000:
        thousands(axis.yaxis)
    dress(axis, "optimizer step", "entries whose mask changed", "Flips")
    if len(tags) > 1:
        place: dict[str, Any] = {
            "loc": "lower right",
            "bbox_to_anchor": (1.0, 1.0),
            "borderaxespad": 0.2,
        }
        axis.legend(frameon=False, fontsize=8, ncols=3, handletextpad=0.2, **place)


def short_names(names: Sequence[str]) -> list[str]:
    """Long names of tensors without their middle; those that would be alike stay whole."""
    cut = [n if len(n) <= LONGEST_NAME else f"{n[:12]}…{n[-(LONGEST_NAME - 13) :]}" for n in names]
    return [
        literal(short if cut.count(short) == 1 else name)
        for name, short in zip(names, cut, strict=True)
    ]


def density_picture(name: str, log: Logged) -> Figure | None:
    """Density by layer and time, and below it sparsity and flips; None without any mask.

    Args:
        name: of the run.
        log: what it logged.
    """
    history = density_history(log)
    if history is None:
        return None
    height = map_height(history)
    figure = new_figure(9.6, height + 3.0)
    above, left, right = figure.subplot_mosaic(
        [["map", "map"], ["sparsity", "flips"]], height_ratios=[height, 2.8]
    ).values()
    figure.suptitle(literal(name), fontsize=10, x=0.01, ha="left")
    heat_map(above, history, log.last)
    sparsity_panel(left, log)
    flips_panel(right, log)
    return figure
