"""Rows that leave a model together, with what reads them and what goes along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

from prunekit.pruning.flow.labels import distinct
from prunekit.pruning.flow.readers import ReaderWatch

Place = tuple[str, int]
"""A parameter, and a row, a column or an entry of it."""


OUTPUT = "is read by no layer, as an output of the model"


@dataclass
class RowUnit:
    """Rows that leave together or not at all: mostly one, two where they are multiplied."""

    rows: list[Place] = field(default_factory=list)
    vectors: list[Place] = field(default_factory=list)
    """Entries of biases, scales and shifts that go with them."""
    columns: dict[Place, list[frozenset[Place]]] = field(default_factory=dict)
    """What reads them -> each of the products of rows that it reads."""
    constants: set[Place] = field(default_factory=set)
    """The columns that read a constant other than 0 where the rows are 0, as behind a sigmoid."""
    reason: str = ""
    """Why they stay, of one: "it ..."; empty where they may leave."""


def row_units(watch: ReaderWatch, refused: Mapping[str, str]) -> list[RowUnit]:
    """The rows of all layers, by what must leave together.

    Args:
        watch: after its pass.
        refused: weight -> why its channels cannot be had.
    """
    numbers = watch.numbers
    rows = sorted({int(r) for labels, _ in watch.outputs for r in distinct(labels) if r > 0})
    joined = _Joined(rows)
    _bind(watch, joined)
    units: dict[int, RowUnit] = {}
    for row in rows:
        unit = units.setdefault(joined.root(row), RowUnit())
        unit.rows.append(numbers.place(row))
        weight = unit.rows[-1][0]
        reason = watch.bound.get(row) or refused.get(weight, "")
        unit.reason = unit.reason or reason
    for column, labels in watch.reads.items():
        products = [watch.rows_of(label) for label in labels if label and isfinite(label)]
        if products and all(row in joined for product in products for row in product):
            unit, place = units[joined.root(products[0][0])], numbers.column(column)
            unit.columns[place] = [frozenset(map(numbers.place, one)) for one in products]
            if min(labels) < 0:
                unit.constants.add(place)
    for entry, reached in _entries(watch):
        held = [row for label in reached for row in watch.rows_of(label) if row in joined]
        if held:
            units[joined.root(held[0])].vectors.append(numbers.place(entry))
    for unit in units.values():
        if not unit.columns and not unit.reason:
            unit.reason = OUTPUT
    return list(units.values())


def _entries(watch: ReaderWatch) -> Iterator[tuple[int, set[int]]]:
    """Entries of vectors -> the labels that reach them."""
    for entry in sorted(watch.sources.keys() | watch.beside.keys()):
        yield entry, watch.sources.get(entry, set()) | watch.beside.get(entry, set()) - {0}


def _bind(watch: ReaderWatch, joined: _Joined) -> None:
    """Join what has a column or an entry in common, and bind what has it with something else."""
    numbers = watch.numbers
    for column, labels in watch.reads.items():
        known = [label for label in labels if label and isfinite(label)]
        joined.join(row for label in known for row in watch.rows_of(label))
        if known and len(known) < len(labels):
            watch.bind(known, f"is read by {numbers.column(column)[0]} beside others")
    for entry, reached in _entries(watch):
        joined.join(row for label in reached for row in watch.rows_of(label))
        if entry in watch.spoiled or 0 in watch.beside.get(entry, ()):
            watch.bind(reached, f"shares an entry of {numbers.place(entry)[0]} with others")


class _Joined:
    """Rows in sets that grow together."""

    def __init__(self, rows: list[int]) -> None:
        self._parent = {row: row for row in rows}

    def __contains__(self, row: int) -> bool:
        return row in self._parent

    def root(self, row: int) -> int:
        """The one that stands for a row's set."""
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, rows: Iterator[int]) -> None:
        """These are of one set."""
        first: int | None = None
        for row in rows:
            if row in self:
                first = self.root(row) if first is None else first
                self._parent[self.root(row)] = first
