"""What was found, tried: half of the units are pruned, and each layer reads what it read before.

Two passes prune one half and then the other, so that each unit is pruned once and kept once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from prunekit.pruning.flow.attention import AttentionHeads
from prunekit.pruning.flow.channels import ChannelWatch
from prunekit.pruning.flow.facts import Fact
from prunekit.pruning.flow.heads import HeadWatch
from prunekit.pruning.flow.labels import distinct, has_number
from prunekit.pruning.flow.layers import Layer, columns_read
from prunekit.pruning.flow.numbering import Numbers
from prunekit.pruning.flow.values import Values

TOLERANCE = 1e-3
"""Of the largest value: what a kept unit may differ by, in single precision."""


class ChannelTrial(ChannelWatch):  # type: ignore[no-untyped-call]
    """A pass in which what a pruned row alone made must be 0, and a kept one as it was.

    Args:
        values: of the parameters; pruned entries are 0.
        first: the pass without pruning.
        pruned: by number, whether a row is pruned; bool.
    """

    def __init__(self, values: Values, first: ChannelWatch, pruned: Tensor) -> None:
        super().__init__(values, first.operands)
        self._first, self._pruned = first, pruned
        self.failed: dict[str, str] = {}
        """Weight -> what went wrong."""

    def seen(self, name: str, out: Tensor, fact: Fact) -> None:
        """Exactly 0, and no NaN, where a pruned row is all that it depends on."""
        if fact.blank:
            return
        labels = fact.labels.masked_fill(~fact.labels.isfinite() | (fact.labels < 0), 0.0)
        for label in distinct(labels[(out != 0) & (labels > 0)]):
            for row in self.rows_of(label):
                if self._pruned[row]:
                    weight = self.numbers.place(row)[0]
                    self.failed.setdefault(weight, f"is not 0 behind {name} where it is pruned")

    def layer(self, layer: Layer, out: Tensor) -> Tensor:
        """Kept outputs are what they were."""
        labels = super().layer(layer, out)
        rows, before = self._first.outputs[len(self.outputs) - 1]
        now = self.outputs[-1][1]
        kept = (rows > 0) & has_number(rows)
        kept &= ~self._pruned.to(rows.device)[rows.masked_fill(~kept, 0.0).long()]
        off = (now - before).abs() > TOLERANCE * before.abs().max()
        for row in distinct(rows[kept & off]):
            weight = self.numbers.place(int(row))[0]
            self.failed.setdefault(weight, "has kept channels that pruned ones change")
        return labels


def channel_trials(
    first: ChannelWatch, along: Mapping[str, Mapping[str, Sequence[int]]]
) -> Iterator[ChannelTrial]:
    """The two passes to run for what `first` found."""
    numbers = first.numbers
    draw = torch.rand(numbers.end, generator=torch.Generator().manual_seed(0)) < 0.5
    tried = torch.zeros(numbers.end, dtype=torch.bool)
    made = {numbers.place(int(r))[0] for rows, _ in first.outputs for r in distinct(rows) if r > 0}
    for weight in made - first.refused.keys():
        own = numbers.row_numbers(weight)
        tried[own.start : own.stop] = True
    for pruned in (draw & tried, ~draw & tried):
        masks = {w: ~pruned[numbers.labels(w).long()] for w in made}
        for weight, vectors in along.items():
            start = numbers.row_numbers(weight).start
            for vector, units in vectors.items():
                rows = torch.tensor([start + at if at >= 0 else 0 for at in units])
                shape = numbers.holders.first(vector).shape
                kept = ~pruned[rows].reshape(shape)
                masks[vector] = masks[vector] & kept if vector in masks else kept
        yield ChannelTrial(Values(numbers, masks), first, pruned)


class HeadTrial(HeadWatch):  # type: ignore[no-untyped-call]
    """A pass in which what kept columns read must be what it was.

    Args:
        values: of the parameters; pruned entries are 0.
        first: the pass without pruning.
        layers: see `HeadWatch`.
        kept: by number of a column of an output projection, whether its head is kept.
    """

    def __init__(
        self, values: Values, first: HeadWatch, layers: Collection[str], kept: Mapping[int, bool]
    ) -> None:
        super().__init__(values, layers, first.operands)
        self._kept = kept
        self.failed: dict[str, str] = {}
        """Output projection -> what went wrong."""

    def compare(self, layer: Layer, operand: Tensor) -> None:
        """Only what belongs to pruned heads may differ."""
        columns, axis = columns_read(layer)
        if columns is None or int(columns[0]) not in self._kept:
            return
        kept = torch.tensor([self._kept.get(int(c), False) for c in columns])
        index = kept.nonzero().flatten().to(operand.device)
        before, now = (t.index_select(axis, index) for t in (operand, layer.operand))
        if not torch.allclose(now, before, rtol=0, atol=TOLERANCE * float(before.abs().max())):
            name = self.numbers.column(int(columns[0]))[0]
            self.failed.setdefault(name, "reads kept heads that pruned ones change")


def head_trials(
    first: HeadWatch, found: Sequence[AttentionHeads], layers: Collection[str]
) -> Iterator[HeadTrial]:
    """The two passes to run for what `first` found."""
    numbers = first.numbers
    for half in (0, 1):
        masks: dict[str, Tensor] = {}
        kept: dict[int, bool] = {}
        for attention in (a for a in found if a.heads > 1):
            for name, heads in attention.rows.items():
                masks[name] = _mask(numbers, name, heads, half)
            for name, heads in attention.columns.items():
                first_column = int(numbers.columns(name).amin())  # type: ignore[union-attr]
                kept |= {
                    first_column + at: head < 0 or head % 2 != half for at, head in enumerate(heads)
                }
        if kept:
            yield HeadTrial(Values(numbers, masks), first, layers, kept)


def _mask(numbers: Numbers, name: str, heads: Sequence[int], half: int) -> Tensor:
    """True where the rows or entries of a parameter are of no head, or of one that is kept."""
    kept = torch.tensor([head < 0 or head % 2 != half for head in heads])
    labels = numbers.labels(name).long()
    return kept[labels - int(labels.min())]
