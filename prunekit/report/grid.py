"""Two axes of a study as a table of means, as papers print them. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunekit.errors import UsageError
from prunekit.foundation.csv_table import read_csv
from prunekit.foundation.suggestions import did_you_mean
from prunekit.report.comparison import accuracies, accuracy
from prunekit.report.labels import number_of
from prunekit.report.read import clean
from prunekit.report.study import AxisLabels, Cell, Study

Axes = tuple[str, str]
"""Rows and columns."""


@dataclass(frozen=True)
class Grid:
    """One arm, at one label of each axis that is left, over two axes; NaN where nothing is."""

    arm: str
    labels: AxisLabels
    axes: Axes
    tick_labels: tuple[tuple[str, ...], tuple[str, ...]]
    """Of the rows, and of the columns."""
    means: np.ndarray
    """[R, C] accuracy in percent."""
    deviations: np.ndarray
    """[R, C] standard deviation over seeds."""
    gains: np.ndarray
    """[R, C] mean difference by seed to the column of label 0, in points."""
    reference: np.ndarray | None
    """[R, C] published values in percent."""
    fewer: int = 0
    """Places whose gain is of fewer pairs than the place has finished runs."""

    @property
    def reference_gains(self) -> np.ndarray | None:
        """[R, C] published values minus those of the column of label 0."""
        zero = _zero(self.tick_labels[1])
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
    """A grid for each arm, and labels of the other axes, that fills two rows and two columns."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[Axes, Cell]] = {}
    for cell in study.cells:
        if all(axis in cell.labels for axis in axes) and cell.runs:
            rest = tuple((a, label) for a, label in cell.labels.items() if a not in axes)
            at = found.setdefault((cell.arm, rest), {})
            at[cell.labels[axes[0]], cell.labels[axes[1]]] = cell
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
    fixed: AxisLabels,
    axes: Axes,
    labels: tuple[Sequence[str], Sequence[str]],
    cells: Mapping[Axes, Cell],
    key: str,
    reference: Reference | None,
) -> Grid:
    shape = (len(labels[0]), len(labels[1]))
    means, deviations, gains, published = (np.full(shape, np.nan) for _ in range(4))
    zero, fewer = _zero(labels[1]), 0
    for i, row in enumerate(labels[0]):
        base = cells.get((row, labels[1][zero])) if zero is not None else None
        for j, column in enumerate(labels[1]):
            spot = {**fixed, axes[0]: row, axes[1]: column}
            value = reference.at(spot) if reference else None
            published[i, j] = np.nan if value is None else value
            cell = cells.get((row, column))
            measured = accuracy(cell, key) if cell else None
            if cell is None or measured is None:
                continue
            means[i, j] = measured.mean
            deviations[i, j] = np.nan if measured.deviation is None else measured.deviation
            if base is not None and cell is not base:
                pairs = _pairs(cell, base, key)
                gains[i, j] = float(np.mean(pairs)) if pairs else np.nan
                fewer += len(pairs) < len(cell.runs)
    return Grid(
        arm, fixed, axes, (tuple(labels[0]), tuple(labels[1])), means, deviations, gains,
        published if reference else None, fewer,
    )  # fmt: skip


def _pairs(cell: Cell, base: Cell, key: str) -> list[float]:
    ours, theirs = accuracies(cell, key), accuracies(base, key)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def _zero(labels: Sequence[str]) -> int | None:
    """The position of the label 0."""
    return next((i for i, label in enumerate(labels) if number_of(label) == 0), None)


@dataclass(frozen=True)
class Reference:
    """Values at the labels of some axes."""

    name: str
    value: str
    """The column that the values are of; percent."""
    axes: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    """Labels in the order of `axes`, numbers in one form -> value."""

    def place(self, labels: AxisLabels) -> tuple[str, ...] | None:
        """These labels as `values` has them; None where an axis is not among them."""
        if not all(axis in labels for axis in self.axes):
            return None
        return tuple(_same(labels[axis]) for axis in self.axes)

    def at(self, labels: AxisLabels) -> float | None:
        """The value at these labels; None where the file has none."""
        place = self.place(labels)
        return None if place is None else self.values.get(place)


def read_reference(path: Path, axes: Sequence[str], where: Mapping[str, str]) -> Reference:
    """Read a CSV file with a header; its last column holds the values, in percent.

    A column belongs to an axis where it is called like it, or has its name as a word
    (`compression_ratio`: `ratio`). Every other column must be settled by `where`, or be constant.

    Args:
        path: the file, UTF-8.
        axes: the axes of the study.
        where: column -> value that a row must have.

    Raises:
        UsageError: it cannot be read, no column fits an axis, or several rows fit a place.
    """
    columns, rows = read_csv(path)
    for column in where:
        if column not in columns:
            raise UsageError(
                f"--where {column}: no column of {path}.{did_you_mean(column, columns)}"
            )
    rows = [r for r in rows if all(_same(r[c]) == _same(v) for c, v in where.items())]
    if not rows:
        raise UsageError(f"--where: no row of {path} fits")
    *keys, value = columns
    of_axis = {axis: found for axis in axes if (found := _column(axis, keys))}
    if not of_axis:
        raise UsageError(
            f"{path}: no column is called like an axis ({', '.join(axes) or 'there is none'}): "
            "rename a column to the axis that it is"
        )
    for column in keys:
        choices = list(dict.fromkeys(row[column] for row in rows))
        if column not in of_axis.values() and len(choices) > 1:
            raise UsageError(
                f"{path}: column {column} has {len(choices)} values and is no axis: choose one, "
                f"as in --where {column}={choices[0]}"
            )
    values = {}
    for row in rows:
        number = number_of(row[value])
        if number is None:
            raise UsageError(f"{path}: column {value} holds {clean(row[value])!r}: give a number")
        values[tuple(_same(row[column]) for column in of_axis.values())] = number
    if len(values) < len(rows):
        raise UsageError(f"{path}: several rows for one place: keep one, or add a --where")
    return Reference(clean(path.name), clean(value), tuple(of_axis), values)


def _column(axis: str, columns: Sequence[str]) -> str | None:
    last = axis.rsplit(".", 1)[-1]
    exact = [column for column in columns if column in (axis, last)]
    words = [column for column in columns if last in re.split(r"[^0-9A-Za-z]+|_", column)]
    return exact[0] if exact else words[0] if len(words) == 1 else None


def _same(label: str) -> str:
    """One form for equal numbers: `0`, `0.0`, `0.00` -> `0`."""
    number = number_of(label)
    return label.strip() if number is None else f"{number:.12g}"
