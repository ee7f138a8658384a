"""Two axes of a study as a table of means, as papers print them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunekit.errors import UsageError
from prunekit.report.comparison import accuracies, accuracy
from prunekit.report.reference import Reference
from prunekit.report.study import Cell, Place, Study, number_of

Axes = tuple[str, str]
"""Rows and columns."""


@dataclass(frozen=True)
class Grid:
    """One arm, at one place of the axes that are left, over two axes; NaN where nothing is."""

    arm: str
    place: Place
    axes: Axes
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    means: np.ndarray
    """[R, C] accuracy in percent."""
    deviations: np.ndarray
    """[R, C] standard deviation over seeds."""
    gains: np.ndarray
    """[R, C] mean difference by seed to the column of label 0, in points."""
    reference: np.ndarray | None
    """[R, C] published values in percent."""

    @property
    def reference_gains(self) -> np.ndarray | None:
        """[R, C] published values minus those of the column of label 0."""
        zero = _zero(self.labels[1])
        if self.reference is None or zero is None:
            return None
        gains: np.ndarray = self.reference - self.reference[:, [zero]]
        gains[:, zero] = np.nan
        return gains


def choose_axes(study: Study, wanted: Axes | None) -> Axes | None:
    """Rows and columns: as asked for, else the first two axes of numbers; a 0 stands in columns.

    Raises:
        UsageError: an axis that is asked for is not there.
    """
    if wanted is not None:
        for axis in wanted:
            if axis not in study.axes or wanted[0] == wanted[1]:
                known = ", ".join(study.axes) or "none"
                raise UsageError(f"--grid {axis}: give two of the axes; there are: {known}")
        return wanted
    numeric = [
        axis
        for axis, labels in study.axes.items()
        if len(labels) > 1 and all(number_of(label) is not None for label in labels)
    ]
    if len(numeric) < 2:
        return None
    first, second = numeric[:2]
    if _zero(study.axes[first]) is not None and _zero(study.axes[second]) is None:
        return second, first
    return first, second


def grids(study: Study, axes: Axes, key: str, reference: Reference | None) -> list[Grid]:
    """A grid for each arm, and place of the other axes, that fills two rows and two columns."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[Axes, Cell]] = {}
    for cell in study.cells:
        if all(axis in cell.place for axis in axes) and cell.runs:
            rest = tuple((a, label) for a, label in cell.place.items() if a not in axes)
            at = found.setdefault((cell.arm, rest), {})
            at[cell.place[axes[0]], cell.place[axes[1]]] = cell
    made = []
    for (arm, rest), cells in found.items():
        labels = tuple(
            tuple(label for label in study.axes[axis] if any(at[i] == label for at in cells))
            for i, axis in enumerate(axes)
        )
        if min(map(len, labels)) > 1:
            made.append(_grid(arm, dict(rest), axes, (labels[0], labels[1]), cells, key, reference))
    return made


def _grid(
    arm: str,
    place: Place,
    axes: Axes,
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[Axes, Cell],
    key: str,
    reference: Reference | None,
) -> Grid:
    shape = (len(labels[0]), len(labels[1]))
    means, deviations, gains, published = (np.full(shape, np.nan) for _ in range(4))
    zero = _zero(labels[1])
    for i, row in enumerate(labels[0]):
        base = cells.get((row, labels[1][zero])) if zero is not None else None
        for j, column in enumerate(labels[1]):
            spot = {**place, axes[0]: row, axes[1]: column}
            value = reference.at(spot) if reference else None
            published[i, j] = np.nan if value is None else value
            cell = cells.get((row, column))
            measured = accuracy(cell, key) if cell else None
            if cell is None or measured is None:
                continue
            means[i, j] = measured.mean
            deviations[i, j] = np.nan if measured.deviation is None else measured.deviation
            if base is not None and cell is not base:
                gains[i, j] = _gain(cell, base, key)
    return Grid(
        arm, place, axes, (tuple(labels[0]), tuple(labels[1])), means, deviations, gains,
        published if reference else None,
    )  # fmt: skip


def _gain(cell: Cell, base: Cell, key: str) -> float:
    ours, theirs = accuracies(cell, key), accuracies(base, key)
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return float(np.mean(pairs)) if pairs else np.nan


def _zero(labels: Sequence[str]) -> int | None:
    """The position of the label 0."""
    return next((i for i, label in enumerate(labels) if number_of(label) == 0), None)
