"""Accuracies that others published for the arms of a sweep, to stand beside the measured ones.

A CSV file with the columns `arm` and `accuracy` (percent), and if need be `deviation`, `source` and
one for each axis on which the values depend. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.csv_table import read_csv
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.text import printable

ARM, ACCURACY, DEVIATION, SOURCE = "arm", "accuracy", "deviation", "source"
COPY = "reference.csv"
"""The file in the directory of a sweep."""
Place = tuple[str, ...]
"""The arm, then the labels in the order of the axes, numbers in one form."""


@dataclass(frozen=True, slots=True)
class PublishedValue:
    """One accuracy, as it was printed."""

    accuracy: str
    """Percent."""
    deviation: str
    """Points; empty where none was printed."""
    source: str

    def __str__(self) -> str:
        return f"{self.accuracy} ± {self.deviation}" if self.deviation else self.accuracy


@dataclass(frozen=True, slots=True)
class Published:
    """All of a file."""

    name: str
    axes: tuple[str, ...]
    """Those that it has a column for."""
    values: Mapping[Place, PublishedValue]

    def place(self, arm: str, labels: Mapping[str, str]) -> Place:
        """Where the value of a cell would stand."""
        return (arm, *(_one_form(labels.get(axis, "")) for axis in self.axes))

    def at(self, arm: str, labels: Mapping[str, str]) -> PublishedValue | None:
        """The value of a cell, if there is one."""
        return self.values.get(self.place(arm, labels))

    @property
    def sources(self) -> list[str]:
        """Each source once, as they come."""
        return [s for s in dict.fromkeys(value.source for value in self.values.values()) if s]


def is_published(path: Path) -> bool:
    """Whether a CSV file has values of arms, and not of two axes.

    Raises:
        UsageError: as `read_csv`.
    """
    return ARM in read_csv(path)[0]


def read_published(path: Path, axes: Sequence[str]) -> Published:
    """Read a file.

    Args:
        path: the file, UTF-8.
        axes: those of the sweep; a name without its dots will do.

    Raises:
        UsageError: one line: it cannot be read, a column is missing or unknown, an accuracy is no
            number from 0 to 100, or two rows have one place.
    """
    columns, rows = read_csv(path)
    for needed in (ARM, ACCURACY):
        if needed not in columns:
            near = did_you_mean(needed, columns)
            raise UsageError(f"{path}: no column is called {needed!r}.{near}")
    named = {column: _axis(column, axes) for column in columns}
    known = (ARM, ACCURACY, DEVIATION, SOURCE)
    for column, axis in named.items():
        if column not in known and axis is None:
            near = did_you_mean(column, [*known, *(axis.rsplit(".", 1)[-1] for axis in axes)])
            raise UsageError(f"{path}: column {printable(column)!r} is no axis of the sweep.{near}")
    at = {axis: column for column, axis in named.items() if axis and column not in known}
    values: dict[Place, PublishedValue] = {}
    for line, row in enumerate(rows, start=2):
        place = (row[ARM], *(_one_form(row[column]) for column in at.values()))
        if place in values:
            raise UsageError(f"{path}: row {line}: a second value for {' '.join(place)}")
        values[place] = _value(path, line, row)
    return Published(printable(path.name), tuple(at), values)


def _axis(column: str, axes: Sequence[str]) -> str | None:
    return next((axis for axis in axes if column in (axis, axis.rsplit(".", 1)[-1])), None)


def _value(path: Path, line: int, row: Mapping[str, str]) -> PublishedValue:
    deviation = row.get(DEVIATION, "")
    for column, text in ((ACCURACY, row[ACCURACY]), (DEVIATION, deviation or "0")):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 100:
            raise UsageError(
                f"{path}: row {line}: {column} is {printable(text)!r}: give percent, 0 to 100"
            )
    source = printable(" ".join(row.get(SOURCE, "").split()))
    return PublishedValue(row[ACCURACY], deviation, source)


def _one_form(label: str) -> str:
    """`0`, `0.0`, `0.00` -> `0`."""
    try:
        return f"{float(label):.12g}"
    except ValueError:
        return printable(label.strip())
