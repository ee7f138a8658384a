"""Masks as images, with the density of their rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prunekit.foundation.number_text import percent
from prunekit.report.figures.style import PALETTE, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PIXELS = 512
"""Of a longer side, neighbours are averaged: their shade is the share that is kept."""
BLUE = PALETTE[0]
PANEL, ACROSS = 4.6, 2


def as_matrix(mask: np.ndarray) -> np.ndarray:
    """Rows are outputs, columns all that an output is made of: [out, in * h * w]."""
    return mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)


def shrunk(matrix: np.ndarray) -> np.ndarray:
    """float64, no side longer than `MOST_PIXELS`: means over neighbours, the last of fewer."""
    found = matrix.astype(float)
    for axis in (0, 1):
        length = found.shape[axis]
        if length > MOST_PIXELS:
            step = -(-length // MOST_PIXELS)
            starts = np.arange(0, length, step)
            counts = np.diff([*starts, length])
            shape = [-1 if side == axis else 1 for side in (0, 1)]
            found = np.add.reduceat(found, starts, axis=axis) / counts.reshape(shape)
    return found


def mask_images(name: str, masks: Mapping[str, np.ndarray]) -> Figure:
    """Draw each mask, dark where it keeps, its row densities at the right, its columns' above.

    Args:
        name: of the run.
        masks: parameter name -> bool, any shape; one at least.
    """
    across = min(ACROSS, len(masks))
    down = -(-len(masks) // across)
    figure = new_figure(PANEL * across, PANEL * down + 0.4)
    told = "Masks, dark = kept. Above: density of the columns; at the right: of the rows"
    figure.suptitle(f"{literal(name)}\n{told}", fontsize=9, x=0.01, ha="left")
    parts = figure.subfigures(down, across, squeeze=False)
    for part, (tensor, mask) in zip(parts.flat, masks.items(), strict=False):
        _one(part, tensor, mask)
    return figure


def _one(part: Any, tensor: str, mask: np.ndarray) -> None:
    matrix = as_matrix(mask)
    axes = part.subplot_mosaic(
        [["columns", "."], ["mask", "rows"]], height_ratios=[1, 4], width_ratios=[4, 1]
    )
    rows, columns = matrix.shape
    main: Axes = axes["mask"]
    extent = (0.0, float(columns), float(rows), 0.0)
    image = shrunk(matrix)
    main.imshow(
        image, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=extent
    )
    shape = " x ".join(map(str, mask.shape))
    title = f"{tensor}\n{shape}, {percent(float(matrix.mean()))} kept"
    axes["columns"].set_title(literal(title), loc="left", fontsize=8)
    if mask.ndim > 1:
        main.set_xlabel("inputs" if mask.ndim < 3 else "inputs, by kernel place", fontsize=8)
        main.set_ylabel("outputs", fontsize=8)
    else:
        main.set_xlabel("outputs", fontsize=8)
    by_row, by_column = 100 * matrix.mean(axis=1), 100 * matrix.mean(axis=0)
    _profile(axes["columns"], np.arange(columns + 1), by_column, "vertical")
    _profile(axes["rows"], np.arange(rows + 1), by_row, "horizontal")
    axes["columns"].set_xlim(0, columns)
    axes["rows"].set_ylim(rows, 0)
    for axis in axes.values():
        axis.tick_params(labelsize=7)


def _profile(
    axis: Axes,
    edges: np.ndarray,
    shares: np.ndarray,
    orientation: Literal["vertical", "horizontal"],
) -> None:
    axis.stairs(shares, edges, orientation=orientation, fill=True, color=BLUE)
    top = 1.1 * max(float(shares.max()), 1.0)
    axis.spines[["top", "right"]].set_visible(False)
    if orientation == "vertical":
        axis.set_ylim(0, top)
        axis.tick_params(axis="x", labelbottom=False)
        axis.set_ylabel("kept, %", fontsize=7)
    else:
        axis.set_xlim(0, top)
        axis.tick_params(axis="y", labelleft=False)
        axis.set_xlabel("kept, %", fontsize=7)
