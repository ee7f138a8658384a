"""What one evaluation shows: confusion, calibration, and accuracy against the tokens that are left.

All of them draw the plain values of `evaluation.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.foundation.number_text import count, percent
from prunekit.report.figures.style import PALETTE, dress, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = PALETTE[:2]
NUMBERED, NAMED = 20, 40
"""Up to so many classes each cell has its number, and each row its name."""


def confusion_matrix(document: Mapping[str, Any]) -> np.ndarray:
    """int64 [classes, classes]: images of the class of the row that were taken for the column's."""
    matrix = np.diag([one["accuracy"]["hits"] for one in document["classes"]]).astype(np.int64)
    for one in document["mistakes"]:
        matrix[one["label"], one["given"]] = one["images"]
    return matrix


def confusion_picture(document: Mapping[str, Any]) -> Figure:
    """The confusion matrix, coloured by the share of a row."""
    names = [literal(one["name"]) for one in document["classes"]]
    matrix = confusion_matrix(document)
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100 * matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    classes = len(names)
    side = min(12.0, max(4.2, 0.42 * classes + 2))
    figure = new_figure(side + 0.9, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="share of the class, %", shrink=0.8)
    if classes <= NUMBERED:
        for (row, column), images in np.ndenumerate(matrix):
            if images:
                ink = "white" if shares[row, column] > 55 else "black"
                axis.text(column, row, images, ha="center", va="center", fontsize=8, color=ink)
    if classes <= NAMED:
        axis.set_xticks(range(classes), names, rotation=90 if _long(names) else 0, fontsize=8)
        axis.set_yticks(range(classes), names, fontsize=8)
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(literal(_title(document)), loc="left", fontsize=10)
    return figure


def _long(names: list[str]) -> bool:
    return max(map(len, names)) > 3


def _title(document: Mapping[str, Any]) -> str:
    return f"{count(document['images'])} test images, {percent(document['top1']['value'])} right"


def calibration_picture(document: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence, and how many images have that confidence."""
    found = document["calibration"]
    bins = [one for one in found["bins"] if one["images"]]
    figure = new_figure(5.2, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 100], [0, 100], color="#8a8a8a", linewidth=1, linestyle="--", label="as it says")
    _bars(above, bins, [100 * one["accuracy"] for one in bins], "accuracy")
    above.plot(
        [100 * one["confidence"] for one in bins],
        [100 * one["accuracy"] for one in bins],
        "o",
        color=ORANGE,
        markersize=5,
        label="at the mean confidence of the bin",
    )
    above.set_ylim(0, 103)
    dress(above, "", "right, %", f"calibration error {percent(found['error'])}")
    above.legend(frameon=False, fontsize=8, loc="upper left")
    _bars(below, bins, [one["images"] for one in bins], None)
    dress(below, "confidence (probability of the class that was given), %", "images")
    below.set_xlim(0, 100)
    return figure


def _bars(
    axis: Axes, bins: list[Mapping[str, Any]], heights: list[float], label: str | None
) -> None:
    lefts = [100 * one["low"] for one in bins]
    widths = [100 * (one["high"] - one["low"]) for one in bins]
    axis.bar(
        lefts,
        heights,
        widths,
        align="edge",
        color=BLUE,
        alpha=0.55,
        edgecolor="white",
        label=label,
    )


def ratio_picture(document: Mapping[str, Any]) -> Figure:
    """Accuracy of one trained model against the tokens that its compressors leave."""
    points = sorted(document["eval_ratios"], key=_across)
    figure = new_figure(6.2, 4.2)
    axis = figure.subplots()
    _points(axis, points, color=BLUE, marker="o", label="other ratios in evaluation, same weights")
    if document["tokens"]:
        _points(axis, [document], color=ORANGE, marker="D", linestyle="", label="as it was trained")
    by_tokens = all(one["tokens"] for one in points)
    known = f" (of {points[0]['tokens']['before']} patches)" if by_tokens else ""
    x = f"tokens that reach the last block{known}" if by_tokens else "ratio in evaluation"
    dress(axis, x, "top-1, %", f"{count(document['images'])} test images, intervals of 95 %")
    axis.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _across(point: Mapping[str, Any]) -> float:
    return float(point["tokens"]["after"] if point["tokens"] else point["eval_ratio"])


def _points(axis: Axes, points: list[Mapping[str, Any]], **style: Any) -> None:
    value = [100 * one["top1"]["value"] for one in points]
    low = [v - 100 * one["top1"]["low"] for v, one in zip(value, points, strict=True)]
    high = [100 * one["top1"]["high"] - v for v, one in zip(value, points, strict=True)]
    across = [_across(one) for one in points]
    axis.errorbar(across, value, yerr=[low, high], capsize=3, markersize=5, **style)
