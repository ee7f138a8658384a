"""Heat maps of a grid, beside published ones: accuracy above, gain over the column of 0 below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.report.figures.style import ON_COLOUR, literal, new_figure
from prunekit.report.grid import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAIN_MAP, VALUE_MAP = "PuOr", "cividis"
"""Both are told apart by colour-blind eyes; orange is a loss."""


def grid_picture(grid: Grid, reference: str = "") -> Figure:
    """Draw one grid; `reference` names the published values."""
    rows, columns = grid.means.shape
    gains = [gain for gain in (grid.gains, grid.reference_gains) if gain is not None]
    deep = 2 if np.isfinite(grid.gains).any() else 1
    across = 1 if grid.reference is None else 2
    size = (max(3.6, 0.95 * columns + 1.7) * across, (0.55 * rows + 1.3) * deep + 0.3)
    figure = new_figure(*size)
    axes = figure.subplots(deep, across, squeeze=False)
    where = ", ".join(f"{axis} {label}" for axis, label in grid.labels.items())
    figure.suptitle(
        literal(" · ".join(filter(None, [grid.arm, where]))), fontsize=10, x=0.02, ha="left"
    )
    _values(axes[0, 0], grid, grid.means, "accuracy, %", grid.deviations)
    if grid.reference is not None:
        _values(axes[0, 1], grid, grid.reference, f"{reference}, %")
    if deep == 2:
        most = max(float(np.nanmax(np.abs(g))) for g in gains if np.isfinite(g).any()) or 1.0
        for i, (axis, gain) in enumerate(zip(axes[1], gains, strict=False)):
            title = f"gain over {grid.axes[1]} 0, points" + (f" ({reference})" if i else "")
            if np.isfinite(gain).any():
                _map(axis, grid, gain, title, "{:+.2f}", cmap=GAIN_MAP, vmin=-most, vmax=most)
            else:
                axis.axis("off")
        for axis in axes[1][len(gains) :]:
            axis.axis("off")
    return figure


def _values(
    axis: Axes, grid: Grid, values: np.ndarray, title: str, deviations: np.ndarray | None = None
) -> None:
    if np.isfinite(values).any():
        _map(axis, grid, values, title, "{:.2f}", deviations, cmap=VALUE_MAP)
    else:
        axis.axis("off")
        axis.set_title(literal(f"{title}: none here"), loc="left", fontsize=9)


def _map(
    axis: Axes,
    grid: Grid,
    values: np.ndarray,
    title: str,
    form: str,
    deviations: np.ndarray | None = None,
    **scale: Any,
) -> None:
    image = axis.imshow(np.ma.masked_invalid(values), aspect="auto", **scale)
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            axis.text(j, i, "-", ha="center", va="center", fontsize=8, color="#777777")
            continue
        text = form.format(value)
        if deviations is not None and np.isfinite(deviations[i, j]):
            text += f"\n± {deviations[i, j]:.2f}"
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        ink = "white" if dark else ON_COLOUR
        axis.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    axis.set_title(literal(title), loc="left", fontsize=9)
    rows, columns = ([literal(label) for label in labels] for labels in grid.tick_labels)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_ylabel(literal(grid.axes[0]))
    axis.set_xlabel(literal(grid.axes[1]))
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
