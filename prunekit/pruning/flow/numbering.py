"""A number for each row and each column of a model's weights, and for each entry of its vectors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor, nn

from prunekit.foundation.parameters import ATTENTION_WEIGHTS, WEIGHTED, Holder, Holders


class Numbers:
    """The parameters of a model, labelled.

    A matrix is a parameter with rows, one an output of its layer; a vector has one axis with more
    than one entry, as biases, scales and shifts have. Rows of matrices have the lower numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.holders = Holders(model)
        names = self.holders.places
        self.matrices = tuple(n for n in names if not _is_vector(self.holders.first(n)))
        self.vectors = tuple(n for n in names if n not in set(self.matrices))
        self._rows = _Ranges([(n, _row_count(self.holders.first(n))) for n in self.matrices])
        entries = [(n, self.holders.first(n).parameter.numel()) for n in self.vectors]
        self._entries = _Ranges(entries, self._rows.end)
        columns = [(n, _column_count(self.holders.first(n))) for n in self.matrices]
        self._columns = _Ranges(columns)
        self.rows_end, self.end = self._rows.end, self._entries.end

    def labels(self, name: str) -> Tensor:
        """The number of the row, or of the entry of a vector, that each entry is of; float64."""
        holder = self.holders.first(name)
        if name in self._entries.first:
            count = holder.parameter.numel()
            return (torch.arange(count) + self._entries.first[name]).double().reshape(holder.shape)
        view, axes = holder.rows
        thin = [n if axis in axes else 1 for axis, n in enumerate(view)]
        numbers = torch.arange(prod(thin)) + self._rows.first[name]
        return numbers.double().reshape(thin).expand(view).reshape(holder.shape)

    def columns(self, name: str) -> Tensor | None:
        """The number of the column that each entry of a matrix is of, float64; None of a vector."""
        if name not in self._columns.first:
            return None
        holder = self.holders.first(name)
        axis = 0 if holder.is_transposed else 1
        thin = [n if at == axis else 1 for at, n in enumerate(holder.shape)]
        numbers = torch.arange(prod(thin)) + self._columns.first[name]
        return numbers.double().reshape(thin).expand(holder.shape)

    def place(self, number: int) -> tuple[str, int]:
        """The parameter that a row's or entry's number is of, and its place there."""
        return (self._rows if number < self.rows_end else self._entries).place(number)

    def column(self, number: int) -> tuple[str, int]:
        """The matrix that a column's number is of, and its place there."""
        return self._columns.place(number)

    def row_numbers(self, name: str) -> range:
        """The numbers of a matrix's rows."""
        return self._rows.of(name)

    def is_weight(self, name: str) -> bool:
        """Whether it is what layers multiply by: the weight of a Linear, a convolution, ..."""
        return name in self._rows.first and is_weight(self.holders.first(name))


class _Ranges:
    """Consecutive numbers for the parts of several things."""

    def __init__(self, sizes: Iterable[tuple[str, int]], start: int = 1) -> None:
        self.first: dict[str, int] = {}
        self._sizes, self.end = dict(sizes), start
        for name, size in self._sizes.items():
            self.first[name] = self.end
            self.end += size
        self._names, self._starts = list(self.first), list(self.first.values())

    def place(self, number: int) -> tuple[str, int]:
        """The thing that a number lies in, and where in it, from 0."""
        at = bisect_right(self._starts, number) - 1
        while self._sizes[self._names[at]] == 0:  # an empty tensor has no number
            at -= 1
        return self._names[at], number - self._starts[at]

    def of(self, name: str) -> range:
        """The numbers of a thing."""
        return range(self.first[name], self.first[name] + self._sizes[name])


def is_weight(holder: Holder) -> bool:
    """Whether it is what layers multiply by: the weight of a Linear, a convolution, ..."""
    attention = holder.own in ATTENTION_WEIGHTS and "MultiheadAttention" in holder.classes
    weighted = holder.own == "weight" and bool(WEIGHTED & holder.classes)
    return len(holder.shape) >= 2 and (weighted or attention)


def _is_vector(holder: Holder) -> bool:
    long = sum(n != 1 for n in holder.shape) <= 1
    return long and not is_weight(holder)


def _row_count(holder: Holder) -> int:
    view, axes = holder.rows
    return prod(view[axis] for axis in axes)


def _column_count(holder: Holder) -> int:
    shape = holder.shape
    return (shape[0] if holder.is_transposed else shape[1]) if len(shape) > 1 else 1
