"""Where the points of a figure lie and what they stand for: the page shows it to a pointer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_POINTS = 600
"""Of a figure; of more, some evenly apart."""
Point = tuple[float, float, str]


def points_as_json(figure: Figure) -> str:
    """A list of [x, y, text]; x from the left and y from the top, shares of the figure.

    A line counts where its label says what it is; one that begins with `_` is none of them.
    """
    figure.draw_without_rendering()  # a layout moves axes
    found = [point for axis in figure.axes for point in _of_axes(axis, figure)]
    if len(found) > MOST_POINTS:
        kept = np.linspace(0, len(found) - 1, MOST_POINTS).round().astype(int)
        found = [found[place] for place in kept]
    return json.dumps(found, separators=(",", ":"))


def _of_axes(axis: Axes, figure: Figure) -> Iterator[Point]:
    names = [axis.get_xlabel() or "x", axis.get_ylabel() or "y"]
    named = [(line, str(line.get_label())) for line in axis.get_lines()]
    named += [(one[0], str(one.get_label())) for one in axis.containers if _is_line(one)]
    for line, label in named:
        if label and not label.startswith("_"):
            yield from _of_line(line, label, names, figure)


def _is_line(container: object) -> bool:
    from matplotlib.container import ErrorbarContainer

    return isinstance(container, ErrorbarContainer) and container[0] is not None


def _of_line(line: Line2D, label: str, names: list[str], figure: Figure) -> Iterator[Point]:
    xy = np.column_stack([np.asarray(part, dtype=float) for part in line.get_data()])
    xy = xy[np.isfinite(xy).all(axis=1)]
    width, height = figure.bbox.size
    for (x, y), (right, up) in zip(xy, line.get_transform().transform(xy), strict=True):
        text = f"{label}\n{names[0]}: {x:.6g}\n{names[1]}: {y:.6g}"
        if np.isfinite((right, up)).all():
            yield round(right / width, 4), round(1 - up / height, 4), text.replace("\\$", "$")
