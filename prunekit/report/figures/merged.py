"""One image, and which of its patches became one token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prunekit.report.figures.style import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 256
"""Up to so many patches each merged one has the number of its token: colours alone repeat."""
GOLDEN = 0.618034
"""Steps of this share around the circle of hues: neighbours in number are far apart in colour."""
DROPPED = (0.1, 0.1, 0.1)


def merged_picture(name: str, pixels: np.ndarray, groups: np.ndarray) -> Figure:
    """Draw an image beside its patches.

    Patches of one colour and number are one token, those without colour one each; dark ones were
    dropped.

    Args:
        name: of the image.
        pixels: uint8 [H, W, C].
        groups: int64 [rows, columns]; -1 = dropped.
    """
    figure = new_figure(7.2, 3.9)
    left, right = figure.subplots(1, 2)
    for axis in (left, right):
        axis.imshow(_rgb(pixels), interpolation="nearest", extent=_extent(groups))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    left.set_title(literal(name), loc="left", fontsize=9)
    left.set_xlabel("as the model takes it", fontsize=8)
    _tint(right, groups)
    tokens = len(np.unique(groups[groups >= 0]))
    right.set_title(f"{groups.size} patches, {tokens} tokens", loc="left", fontsize=9)
    told = "one token: same colour" + (" and number" if groups.size <= NUMBERED else "")
    right.set_xlabel(told + (", dark: dropped" if (groups < 0).any() else ""), fontsize=8)
    return figure


def _rgb(pixels: np.ndarray) -> np.ndarray:
    channels = pixels.shape[2]
    return pixels if channels == 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def _extent(groups: np.ndarray) -> tuple[float, float, float, float]:
    """A patch is 1 x 1, the first at the top left."""
    rows, columns = groups.shape
    return 0.0, float(columns), float(rows), 0.0


def _tint(axis: Axes, groups: np.ndarray) -> None:
    from matplotlib.colors import hsv_to_rgb

    tokens, counts = np.unique(groups[groups >= 0], return_counts=True)
    merged = {int(token): number for number, token in enumerate(tokens[counts > 1], start=1)}
    tint = np.zeros((*groups.shape, 4))
    tint[groups < 0] = (*DROPPED, 0.85)
    for token, number in merged.items():
        hue = number * GOLDEN % 1
        tint[groups == token] = (*hsv_to_rgb((hue, 0.85, 0.95)), 0.5)
    axis.imshow(tint, interpolation="nearest", extent=_extent(groups))
    _outline(axis, groups)
    if groups.size <= NUMBERED:
        for (row, column), token in np.ndenumerate(groups):
            if int(token) in merged:
                _number(axis, column + 0.5, row + 0.5, merged[int(token)], groups)


def _number(axis: Axes, x: float, y: float, number: int, groups: np.ndarray) -> None:
    from matplotlib.patheffects import withStroke

    axis.text(
        x,
        y,
        str(number),
        ha="center",
        va="center",
        fontsize=max(4.5, min(10.0, 64 / max(groups.shape))),
        color="white",
        path_effects=[withStroke(linewidth=1.6, foreground="black")],
    )


def _outline(axis: Axes, groups: np.ndarray) -> None:
    """A line between neighbours that are not one token."""
    from matplotlib.collections import LineCollection

    lines = [
        [(column + 1, row), (column + 1, row + 1)]
        for row, column in np.argwhere(groups[:, 1:] != groups[:, :-1])
    ]
    lines += [
        [(column, row + 1), (column + 1, row + 1)]
        for row, column in np.argwhere(groups[1:] != groups[:-1])
    ]
    for color, width in (("black", 2.0), ("white", 0.9)):  # seen on any image
        axis.add_collection(LineCollection(lines, colors=color, linewidths=width))
