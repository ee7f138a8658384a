"""What runs of a study did to layers and tokens, a panel for each cell: of its first seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunekit.errors import CheckpointError
from prunekit.report.comparison import repeating
from prunekit.report.figures.layers import heat_map, map_height
from prunekit.report.figures.style import literal, new_figure
from prunekit.report.read import RunRecord
from prunekit.report.study import Cell, Study
from prunekit.runs.density_history import DensityHistory, density_history
from prunekit.runs.merged_patches import (
    MERGED_FILE,
    PatchGroups,
    read_patch_groups,
    side_by_side_image,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELLS = 6
STRIP = 2.3
"""Inches of the images of a cell."""


def shown_runs(study: Study) -> list[tuple[str, RunRecord]]:
    """Name and run of each cell: of its first seed, none twice."""
    repeated = repeating(study, study.arms)
    found: dict[str, tuple[str, RunRecord]] = {}
    for cell in study.cells:
        if cell.arm not in repeated and cell.runs:
            run = cell.runs[min(cell.runs)]
            found.setdefault(str(run.path), (cell_name(cell), run))
    return list(found.values())


def cell_name(cell: Cell) -> str:
    """`magnitude, sparsity 0.8`."""
    return ", ".join([cell.arm, *(f"{axis} {label}" for axis, label in cell.labels.items())])


def histories(study: Study) -> list[tuple[str, DensityHistory, int]]:
    """Name, densities and last step of each cell whose masks changed in the course of it."""
    found = []
    for name, run in shown_runs(study):
        history = density_history(run.log)
        if history is not None and len(history.steps) > 1:
            found.append((name, history, run.log.last))
    return found


def layers_picture(cells: Sequence[tuple[str, DensityHistory, int]]) -> Figure:
    """One map a cell, below each other."""
    heights = [map_height(history) for _, history, _ in cells]
    figure = new_figure(8.6, sum(heights))
    axes = figure.subplots(len(cells), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, history, last) in zip(axes, cells, strict=True):
        heat_map(axis, history, last, name)
    return figure


def merged_images(study: Study) -> list[tuple[str, list[PatchGroups]]]:
    """Name and test images of each cell that has them."""
    found = []
    for name, run in shown_runs(study):
        if (run.path / MERGED_FILE).is_file():
            try:
                found.append((name, read_patch_groups(run.path / MERGED_FILE)))
            except CheckpointError:  # damaged: the numbers of the run are whole all the same
                continue
    return found


def merged_picture_of(cells: Sequence[tuple[str, list[PatchGroups]]]) -> Figure:
    """Images above, their tokens below, for each cell."""
    figure = new_figure(8.6, STRIP * len(cells))
    axes = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, cells, strict=True):
        axis.imshow(side_by_side_image(images), interpolation="nearest")
        axis.set_axis_off()
        tokens = sorted({one.tokens for one in images})
        left = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}"
        title = f"{name}: {left} of {images[0].groups.size} tokens"
        axis.set_title(literal(title), loc="left", fontsize=9)
    return figure
