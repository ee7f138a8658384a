"""Published numbers from a CSV file, to stand beside one's own. Torch-free."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.report.facts import clean
from prunekit.report.study import Place, number_of

MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Reference:
    """Values at the labels of some axes."""

    name: str
    value: str
    """The column that the values are of; percent."""
    axes: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    """Labels in the order of `axes`, numbers in one form -> value."""

    def at(self, place: Place) -> float | None:
        """The value at a place; None where the file has none."""
        if not all(axis in place for axis in self.axes):
            return None
        return self.values.get(tuple(_same(place[axis]) for axis in self.axes))


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
    columns, rows = _read(path)
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


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"{path}: {reason}: give a CSV file with a header") from None
    try:
        table = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise UsageError(f"{path}: no CSV file: {error}") from None
    if len(data) > MAX_BYTES or len(table) < 2 or len(table[0]) < 2:
        raise UsageError(f"{path}: give a CSV file with a header, two columns or more, and rows")
    header = [name.strip() for name in table[0]]
    for line, row in enumerate(table, start=1):
        if len(row) != len(header) or len(set(header)) < len(header):
            raise UsageError(f"{path}: row {line} does not fit the header")
    return header, [dict(zip(header, map(str.strip, row), strict=True)) for row in table[1:]]


def _column(axis: str, columns: Sequence[str]) -> str | None:
    last = axis.rsplit(".", 1)[-1]
    exact = [column for column in columns if column in (axis, last)]
    words = [column for column in columns if last in re.split(r"[^0-9A-Za-z]+|_", column)]
    return exact[0] if exact else words[0] if len(words) == 1 else None


def _same(label: str) -> str:
    """One form for equal numbers: `0`, `0.0`, `0.00` -> `0`."""
    number = number_of(label)
    return label.strip() if number is None else f"{number:.12g}"
