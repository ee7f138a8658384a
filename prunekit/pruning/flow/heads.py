"""Which rows of which weights work together in an attention, and which columns read them.

The label of an element is the set of rows on which it depends, by a number. What attention mixes
stays within a head: the rows that a column of the next layer depends on are those of one head, of
queries, keys and values, in whatever order rows and columns lie.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.facts import Fact
from prunekit.pruning.flow.labels import (
    BASE,
    FREE,
    NONE,
    broadcast_shape,
    distinct,
    pairs,
    thin,
    thinnest,
    without_axes,
)
from prunekit.pruning.flow.layers import Layer, columns_read
from prunekit.pruning.flow.values import Values
from prunekit.pruning.flow.watch import FlowWatch


class HeadWatch(FlowWatch):  # type: ignore[no-untyped-call]
    """Join the rows that meet between one layer and the next.

    Args:
        values: of the parameters.
        layers: the matrices that are layers; others are constants.
        operands: see `FlowWatch`.
    """

    def __init__(
        self,
        values: Values,
        layers: Collection[str],
        operands: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__(values, operands)
        self._is_layer = torch.zeros(self.numbers.end, dtype=torch.bool)
        for name in layers:
            rows = self.numbers.row_numbers(name)
            self._is_layer[rows.start : rows.stop] = True
        self.sets: dict[frozenset[int], int] = {}
        """The sets that a set is made of -> its number; a row is a set, too."""
        self.meeting: set[int] = set()
        """Sets that are multiplied with one another: queries with keys, their match with values."""
        self.readers: dict[int, set[int]] = {}
        """Column -> the sets that reach it."""
        self.biases: dict[int, int] = {}
        """Row -> the entry of a vector that is added to it."""

    def is_layer(self, weight: Fact) -> bool:
        """Whether it is made of the rows of a layer."""
        labels = thin(weight.labels)
        rows = labels[self.rows(labels)]
        return weight.columns is not None and bool(self._is_layer[rows.long().cpu()].any())

    # ---- labels

    def merge(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """All rows along the axes meet."""
        axes = list(axes)
        full = without_axes(labels, axes)
        if not axes or 0 in labels.shape:
            return labels.new_full(full, NONE) if axes else labels
        lines = thinnest(_without_padding(thin(labels)))
        kept = [axis for axis in range(lines.dim()) if axis not in axes]
        flat = lines.permute(*kept, *axes).reshape(prod(lines.shape[axis] for axis in kept), -1)
        found, places = torch.unique(flat, dim=0, return_inverse=True)
        sets = labels.new_tensor([self._set_of(distinct(line)) for line in found])
        return sets[places].reshape(without_axes(lines, axes)).expand(full)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Queries meet keys, or their match meets values."""
        labels = self._both(left, right)
        self.meeting |= {int(label) for label in distinct(labels) if label}
        return labels

    def pointwise(self, func: OpOverload, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        """Rows of what is put together meet."""
        tensors = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        labels = [self.facts.labels_of(t) for t in tensors.values() if self.facts.is_dynamic(t)]
        found = labels[0]
        for other in labels[1:]:
            found = self._both(found, other)
        return found.expand(out.shape)

    def norm(self, name: str, given: Mapping[str, Any], labels: Tensor) -> Tensor:
        """Statistics join what they are taken over."""
        if name in ops.LAYER_NORMS:
            last = len(given["normalized_shape"])
            merged = self.merge(labels, range(labels.dim() - last, labels.dim()))
            return merged.expand(labels.shape)
        if name in ops.GROUP_NORMS:
            groups = given["group"]
            grouped = labels.reshape(len(labels), groups, -1, *labels.shape[2:])
            return self.merge(grouped, range(2, grouped.dim())).expand(grouped.shape).flatten(1, 2)
        if given.get("training") or given.get("use_input_stats"):
            return self.merge(labels, [0, *range(2, labels.dim())]).expand(labels.shape)
        return labels

    def added(self, labels: Tensor, bias: Tensor) -> Tensor:
        """Constants join nothing; anything that moves does."""
        if self.facts.is_dynamic(bias):
            return self._both(labels, self.facts.labels_of(bias))
        return labels

    def lost(self, name: str, facts: Sequence[Fact]) -> float:
        """All that enters may meet."""
        tops = [self.merge(f.labels, range(f.labels.dim())) for f in facts if f.origin.dynamic]
        found = tops[0].flatten()
        for other in tops[1:]:
            found = self._both(found, other.flatten())
        return float(found[0]) if found.numel() else NONE

    def layer(self, layer: Layer, out: Tensor) -> Tensor:
        """What is read is noted by column; what comes out are the rows of the layer."""
        operand, weight = self.facts.labels_of(layer.operand), layer.weight
        columns, axis = columns_read(layer)
        given = layer.arguments
        if layer.name in ops.CONVOLUTIONS and given["groups"] > 1:  # each group by itself
            grouped = operand.reshape(len(operand), given["groups"], -1)
            merged = self.merge(grouped, [2])[..., 0]
            merged = merged.repeat_interleave(out.shape[1] // given["groups"], 1)
            return merged.reshape(*merged.shape, *[1] * (out.dim() - 2))
        if columns is None:
            everything = distinct(self.merge(operand, range(operand.dim())))
            for column in distinct(thin(weight.columns)):  # type: ignore[arg-type]
                self.readers.setdefault(int(column), set()).update(map(int, everything))
            return out.new_full([1] * out.dim(), float(weight.labels.max()), dtype=torch.float64)
        self._read(columns, operand, axis)
        rows, bias = self._rows(layer, out), None
        if layer.name in ops.CONVOLUTIONS and given["bias"] is not None:
            bias = self.facts.labels_of(given["bias"]).reshape(1, -1, *[1] * (out.dim() - 2))
        elif layer.name in ops.SUMS_OF_PRODUCTS:
            bias = self.facts.labels_of(given["self"])
        if bias is not None:
            shape = broadcast_shape(rows, bias)
            found = pairs(rows.expand(shape), bias.expand(shape))
            first, end = self.numbers.rows_end, self.numbers.end
            self.biases |= {row: entry for row, entry in found if row and first <= entry < end}
        return rows

    def _rows(self, layer: Layer, out: Tensor) -> Tensor:
        labels = layer.weight.labels
        if layer.name in ops.CONVOLUTIONS:
            labels = labels.transpose(0, 1) if layer.arguments["transposed"] else labels
            return thin(labels).flatten(1).amax(1).reshape(1, -1, *[1] * (out.dim() - 2))
        rows = thin(labels).amax(-2 if layer.right else -1, keepdim=True)
        return rows.squeeze(-1) if out.dim() < rows.dim() else rows

    def _read(self, columns: Tensor, operand: Tensor, axis: int) -> None:
        """Note which rows reach which columns; those of the operand lie along `axis`."""
        lines = thinnest(_without_padding(operand)).movedim(axis, -1)
        lines = lines.expand(*lines.shape[:-1], len(columns)).flatten(0, -2)
        for line in torch.unique(lines, dim=0):
            for column, label in pairs(columns, line):
                if label:
                    self.readers.setdefault(column, set()).add(label)

    # ---- sets

    def _set_of(self, labels: Iterable[float]) -> int:
        """The number of the union of some sets."""
        parts = frozenset(int(label) for label in labels if label)
        if len(parts) < 2:
            return next(iter(parts), int(NONE))
        return self.sets.setdefault(parts, self.numbers.end + len(self.sets))

    def _both(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = (thinnest(_without_padding(labels)) for labels in (left, right))
        keys, places = torch.unique(left * BASE + right, return_inverse=True)
        sets = [self._set_of(divmod(int(key), BASE)) for key in keys.tolist()]
        return left.new_tensor(sets)[places]


def _without_padding(labels: Tensor) -> Tensor:
    return labels.masked_fill(labels == FREE, NONE)
