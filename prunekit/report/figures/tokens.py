"""Test images as a model sees them at several ratios: each token one field of colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunekit.report.figures.style import PALETTE, dress, literal, new_figure
from prunekit.runs.merged_patches import PatchGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 1.45
"""Inches of an image."""


def token_picture(
    name: str,
    columns: Mapping[str, Sequence[PatchGroups]],
    accuracy: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Images from top to bottom; from left to right as they are, then at each ratio.

    Args:
        name: of the run.
        columns: heading -> the same images, in their order; one heading at least.
        accuracy: points of `evaluation.json`, `eval_ratios`, where they were measured.
    """
    first = next(iter(columns.values()))
    across, down = 1 + len(columns), len(first)
    below = 3.0 if accuracy else 0.0
    figure = new_figure(max(SIDE * across, 5.0), SIDE * down + 0.9 + below)
    told = "Each token is one field, of the mean colour of its patches; dark ones were dropped"
    told = told.partition(";")[0] if all((g.groups >= 0).all() for g in _all(columns)) else told
    figure.suptitle(f"{literal(name)}\n{told}", fontsize=9, x=0.01, ha="left")
    images: Any = figure
    if accuracy:
        parts: Any = figure.subfigures(2, 1, height_ratios=[SIDE * down + 0.9, below])
        images, graph = parts
        _curve(graph.subplots(), accuracy)
    axes = images.subplots(down, across, squeeze=False)
    for row, one in enumerate(first):
        _image(axes[row, 0], one.rgb(), "" if row else "image")
        for place, (heading, groups) in enumerate(columns.items(), start=1):
            found = groups[row]
            title = (
                f"{heading}\n{found.tokens} of {found.groups.size}"
                if row == 0
                else (f"{found.tokens} of {found.groups.size}")
            )
            _image(axes[row, place], found.fields(), title)
    return figure


def _all(columns: Mapping[str, Sequence[PatchGroups]]) -> list[PatchGroups]:
    return [one for groups in columns.values() for one in groups]


def _image(axis: Axes, pixels: Any, title: str) -> None:
    axis.imshow(pixels, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if title:
        axis.set_title(literal(title), fontsize=7.5)


def _curve(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against the tokens that are left, with the interval of each."""
    ordered = sorted(points, key=lambda one: float(one["tokens"]["after"]))
    value = [100 * one["top1"]["value"] for one in ordered]
    low = [100 * (one["top1"]["value"] - one["top1"]["low"]) for one in ordered]
    high = [100 * (one["top1"]["high"] - one["top1"]["value"]) for one in ordered]
    tokens = [one["tokens"]["after"] for one in ordered]
    axis.errorbar(tokens, value, yerr=[low, high], capsize=3, marker="o", color=PALETTE[0])
    patches = ordered[0]["tokens"]["before"]
    dress(axis, f"tokens that reach the last block (of {patches} patches)", "top-1, %", "Accuracy")
