"""Who reads each row of a layer: the columns behind it, and what keeps it where it is.

Labels are those of `ChannelWatch`. A row can leave a model if all that its elements reach are
columns that read it alone; where it meets others, as in a sum, it is bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.channels import ChannelWatch
from prunekit.pruning.flow.facts import Origin
from prunekit.pruning.flow.labels import (
    FREE,
    broadcast_shape,
    has_number,
    numbers,
    pairs,
    thin,
    thinnest,
    uniform,
)
from prunekit.pruning.flow.layers import Layer, columns_read

SUM = "enters a sum with others, as in a residual stream"
GROUPED = "is an output of a grouped convolution"
FEEDS_GROUPED = "is read by a grouped convolution"
GATE = "multiplies others, as a gate does"
REASONS = {
    **dict.fromkeys(ops.LAYER_NORMS | ops.GROUP_NORMS, "feeds a norm over several channels"),
    **dict.fromkeys(ops.FACTORS, "meets others in a matrix product, as in attention"),
    **dict.fromkeys(ops.REDUCTIONS, "meets others in a mean or a sum over channels"),
    **dict.fromkeys(ops.SOFTMAXES, "meets others in a softmax"),
    **dict.fromkeys(("add", "sub"), SUM),
    "mul": GATE,
}
OTHERS = "meets others in {}"


class ReaderWatch(ChannelWatch):  # type: ignore[no-untyped-call]
    """Follow rows through a forward pass to the columns that read them."""

    def __post_init__(self) -> None:
        """What is found."""
        super().__post_init__()
        self.reads: dict[int, set[float]] = {}
        """Column -> the labels of what it reads."""
        self.bound: dict[int, str] = {}
        """Row -> why it cannot leave."""
        self.beside: dict[int, set[int]] = {}
        """Entry of a vector -> the rows, or products of rows, that it is put together with."""
        self._plain: dict[int, Origin] = {}

    def bind(self, labels: Iterable[float], reason: str) -> None:
        """The rows of the labels stay, for a reason: of one, "it ..."."""
        for label in labels:
            for row in self.rows_of(label):
                self.bound.setdefault(row, reason)

    def _stand_in(self, value: Any) -> Any:
        made = super()._stand_in(value)
        if made is not value and (fact := self.facts.get(made)) is not None:
            self._plain[id(fact.origin)] = fact.origin  # its views have the same
        return made

    # ---- layers

    def layer(self, layer: Layer, out: Tensor) -> Tensor:
        """Note which columns read which labels."""
        rows = super().layer(layer, out)
        operand, own = self.facts.labels_of(layer.operand), numbers(thin(layer.weight.labels))
        if id(layer.weight.origin) not in self._plain:
            self.bind(own, "is a row of a weight that is computed of others")
            self.bind(numbers(thin(operand)), "is read by a weight that is computed of others")
        columns, axis = columns_read(layer)
        if columns is None:
            self.bind(own, GROUPED)
            self.bind(numbers(thin(operand)), FEEDS_GROUPED)
        else:
            self._read(columns, operand, axis)
        return rows

    def _read(self, columns: Tensor, operand: Tensor, axis: int) -> None:
        lines = thinnest(operand).movedim(axis, -1).flatten(0, -2)
        lines = lines.expand(len(lines), len(columns))
        found = uniform(lines, [0])[0]
        for column, label in zip(columns.tolist(), found.tolist(), strict=True):
            self.reads.setdefault(int(column), set()).add(label)
        mixed = lines[:, ~has_number(found)]
        if mixed.numel():
            self.bind(numbers(mixed), "is read in a column that reads others, too")

    def _biased(self, layer: Layer, out: Tensor) -> Tensor:
        labels = super()._biased(layer, out)
        self._compare(SUM, self.outputs[-1][0], labels)
        return labels

    # ---- other operations

    def _follow(
        self, name: str, func: OpOverload, args: Any, kwargs: Any, out: Any, layer: Layer | None
    ) -> None:
        moves = name in ops.MOVING or (func.is_view and name not in ops.NOT_FOLLOWED)
        if layer is not None or moves or name in ops.ZEROS | ops.FACTORIES:
            super()._follow(name, func, args, kwargs, out, layer)
            return
        tensors = {id(t): t for t in tree_leaves((args, kwargs)) if self._has_labels(t)}
        moving = [self._now(t) for t in tensors.values() if self.facts.is_dynamic(t)]
        still = [self._now(t) for t in tensors.values() if not self.facts.is_dynamic(t)]
        super()._follow(name, func, args, kwargs, out, layer)
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if moving and outs:
            self._met(name, ops.is_pointwise(name, func), moving, still, outs[0])

    def _has_labels(self, value: Any) -> bool:
        fact = self.facts.get(value)
        return fact is not None and not fact.blank

    def _now(self, tensor: Tensor) -> Tensor:
        """Labels as they are before an operation that may write in place."""
        return thinnest(self.facts.labels_of(tensor)).clone()

    def _met(
        self,
        name: str,
        pointwise: bool,
        moving: Sequence[Tensor],
        still: Sequence[Tensor],
        out: Tensor,
    ) -> None:
        """Rows that went in and did not come out are bound."""
        reason = REASONS.get(name, OTHERS.format(name))
        after = thinnest(self.facts.labels_of(out))
        for labels in moving:
            if name in ops.LAYER_NORMS | ops.GROUP_NORMS:
                self.bind(numbers(labels), reason)
            elif pointwise and not out.is_floating_point():
                continue  # as many truths as there are elements
            elif pointwise or name in ops.BATCH_NORMS:
                self._compare(reason, labels, after)
            else:
                kept = {row for label in numbers(after) for row in self.rows_of(label)}
                gone = {row for label in numbers(labels) for row in self.rows_of(label)} - kept
                self.bind(gone, reason)
        for labels in still if pointwise else ():
            self._beside(labels, after)
        for padded in moving if pointwise and len(moving) > 1 else ():
            self._bind_beside_zeros(reason, padded, after)

    def _bind_beside_zeros(self, reason: str, padded: Tensor, after: Tensor) -> None:
        """Padding changes no value, but has its own size."""
        if (padded == FREE).any():
            zeros, after = _spread(padded == FREE, after)
            self.bind(numbers(after[zeros]), reason)

    def _compare(self, reason: str, before: Tensor, after: Tensor) -> None:
        """Element by element: a row goes on as itself, or in a product."""
        before, after = _spread(*map(_plain_numbers, (before, after)))
        for old, new in pairs(before, after):
            if old and not set(self.rows_of(old)) <= set(self.rows_of(new)):
                self.bind([old], reason)

    def _beside(self, still: Tensor, after: Tensor) -> None:
        """Entries of vectors go with the rows that they scale or shift."""
        still, after = _spread(*map(_plain_numbers, (still, after)))
        for entry, label in pairs(still, after):
            if self.numbers.rows_end <= entry < self.numbers.end:
                self.beside.setdefault(entry, set()).add(label)
            elif entry and label:
                self.bind([label], f"is put together with {self.numbers.place(entry)[0]}")


def _spread(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    shape = broadcast_shape(left, right)
    return left.expand(shape), right.expand(shape)


def _plain_numbers(labels: Tensor) -> Tensor:
    """Without signs; 0 for what is no row."""
    return torch.where(has_number(labels), labels.abs(), 0.0)
