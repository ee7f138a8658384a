"""What stands behind each row of a layer: its bias entry, and the norms that it alone feeds.

The label of an element is the number of the row on which alone it depends: u, if it is 0 when row u
is pruned with what goes along; -u, if it is only constant then, as behind a sigmoid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.elementwise import Elementwise
from prunekit.pruning.flow.facts import Fact
from prunekit.pruning.flow.labels import (
    FREE,
    LOST,
    NONE,
    broadcast_shape,
    has_number,
    numbers,
    pairs,
    uniform,
)
from prunekit.pruning.flow.layers import Layer


class ChannelWatch(Elementwise):  # type: ignore[no-untyped-call]
    """Follow rows through a forward pass, up to where they meet others."""

    def __post_init__(self) -> None:
        """What is found."""
        self.sources: dict[int, set[int]] = {}
        """Entry of a vector -> the rows, or products of rows, that alone reach it."""
        self.spoiled: set[int] = set()
        """Entries that something else reaches, too."""
        self.harmless: set[int] = set()
        """Scales without a shift: what reaches them as 0 leaves them as 0."""
        self.refused: dict[str, str] = {}
        """Weight -> why its channels cannot be had."""
        self.outputs: list[tuple[Tensor, Tensor]] = []
        """Of each layer: the row of each output, and the sum of what it gave."""
        self._lost: dict[str, set[str]] = {}
        """Unknown operation -> the weights whose rows enter it."""

    def refuse(self, labels: Tensor, reason: str) -> None:
        """Note why the rows among the labels cannot be had."""
        for weight in self.weights_of(labels):
            self.refused.setdefault(weight, reason)

    def weights_of(self, labels: Tensor) -> set[str]:
        """The weights that have the rows among the labels."""
        found = numbers(labels) if labels.numel() else set()
        return {self.numbers.place(row)[0] for label in found for row in self.rows_of(label)}

    # ---- labels

    def merge(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """The row that all depend on; padding depends on none."""
        return uniform(labels, axes)

    def softened(self, labels: Tensor) -> Tensor:
        """Constant, no longer zero."""
        return torch.where((labels == FREE) | (labels == NONE), NONE, -labels.abs())

    def lost(self, name: str, facts: Sequence[Fact]) -> float:
        """Nothing is known from here on."""
        for fact in facts:
            self._lost.setdefault(name, set()).update(self.weights_of(fact.labels))
        return LOST

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Rows meet."""
        return torch.where((left == LOST) | (right == LOST), LOST, NONE)

    def is_operand(self, value: Tensor) -> bool:
        """Also constants, as of positions: what a layer makes of them is its own."""
        return super().is_operand(value) or not has_number(self.facts.labels_of(value)).any()

    def layer(self, layer: Layer, out: Tensor) -> Tensor:
        """The row that made an output."""
        rows = self._rows(layer, out)
        axes = [axis for axis, n in enumerate(rows.shape) if n == 1]
        self.outputs.append((rows, out.double().sum(axes, keepdim=True)))
        return rows

    def _rows(self, layer: Layer, out: Tensor) -> Tensor:
        labels = layer.weight.labels
        if layer.name in ops.CONVOLUTIONS:
            if layer.arguments["transposed"]:
                shape = (layer.arguments["groups"], -1, *labels.shape[1:])
                labels = labels.reshape(shape).transpose(1, 2).flatten(0, 1)
            rows = self.merge(labels, range(1, labels.dim()))
            return rows.reshape(1, -1, *[1] * (out.dim() - 2))
        if labels.dim() == 1:  # a matrix times a vector
            return out.new_zeros([1] * out.dim(), dtype=torch.float64)
        rows = self.merge(labels, [labels.dim() - (2 if layer.right else 1)])
        return rows.squeeze(-1) if out.dim() < rows.dim() else rows

    # ---- biases

    def added(self, labels: Tensor, bias: Tensor) -> Tensor:
        """A bias goes with the rows if each has an entry of its own."""
        if self.facts.is_dynamic(bias):
            return torch.where(labels == LOST, LOST, NONE)
        entries = self.facts.labels_of(bias)
        shape = broadcast_shape(labels, entries)
        return self.shifted(labels.expand(shape), entries.expand(shape), (bias != 0).expand(shape))

    def shifted(self, labels: Tensor, entries: Tensor, moved: Tensor) -> Tensor:
        """See `Elementwise`; rows with an entry of their own take it along."""
        known, vector = has_number(labels), self.is_entry(entries)
        self.spoiled |= numbers(entries[~known & vector & moved & (labels != FREE)])
        at = known & vector & moved
        if at.any():
            found = pairs(labels[at].abs(), entries[at])
            times = Counter(row for row, _ in found)
            several = {row for row, n in times.items() if n > 1}
            for row, entry in found:
                if row in several:  # an entry a position: a sum with something
                    self.spoiled.add(entry)
                else:
                    self.sources.setdefault(entry, set()).add(row)
            gone = torch.isin(labels.abs(), labels.new_tensor(sorted(several)))
            labels = torch.where(at & gone, NONE, labels)
        fixed = known & ~vector & moved
        self.refuse(labels[fixed], "has a shift behind it that no parameter holds")
        return torch.where(fixed | (labels == FREE) & moved, NONE, labels)

    # ---- norms

    def norm(self, name: str, given: Mapping[str, Any], labels: Tensor) -> Tensor:
        """A norm's scale and shift go with the row that alone feeds them."""
        held = [t for t in (given.get("weight"), given.get("bias")) if t is not None]
        fact = self.facts.get(given["input"])
        if fact is not None and fact.blank:
            for tensor in held:
                self.spoiled |= numbers(self.facts.labels_of(tensor))
            return labels
        if name in ops.LAYER_NORMS:
            last = len(given["normalized_shape"])
            spread = labels.flatten(labels.dim() - last).flatten(0, -2).T
        else:
            spread = labels.transpose(0, 1).flatten(1)
        channels = self.merge(spread, [1])[:, 0]
        self._reach(name, channels, held)
        channels = self._behind(name, given, spread, channels)
        if name in ops.LAYER_NORMS:
            return channels.reshape(given["normalized_shape"]).expand(labels.shape)
        return channels.reshape(1, -1, *[1] * (labels.dim() - 2)).expand(labels.shape)

    def _reach(self, name: str, channels: Tensor, held: Sequence[Tensor]) -> None:
        """Note which rows reach the entries of scale and shift."""
        known = has_number(channels)
        for tensor in held:
            entries = self.facts.labels_of(tensor).flatten()
            vector = self.is_entry(entries)
            own = known & vector
            for row, entry in zip(channels[own].abs().tolist(), entries[own].tolist(), strict=True):
                self.sources.setdefault(int(entry), set()).add(int(row))
            self.spoiled |= numbers(entries[~known & vector])
            if name in ops.RMS_NORMS:
                self.harmless |= numbers(entries)

    def _behind(
        self, name: str, given: Mapping[str, Any], spread: Tensor, channels: Tensor
    ) -> Tensor:
        """Labels of the channels behind a norm; rows that it would not leave at 0 are refused."""
        lost = (spread == LOST).any(1)
        for operation, weights in self._lost.items() if lost.any() else ():
            for weight in weights:
                self.refused.setdefault(weight, f"cannot be followed through {operation}")
        known, scale = has_number(channels), given.get("weight")
        if name in ops.RMS_NORMS or (given.get("bias") is None and _own_statistics(name, given)):
            return channels  # what is 0 stays 0, what is constant stays so
        rows = has_number(spread).any(1)
        if scale is None:
            self.refuse(spread[rows], "feeds a norm without a scale of its own (affine: false)")
            return torch.where(lost, LOST, torch.full_like(channels, NONE))
        self.refuse(spread[rows & ~known], f"feeds {self._holder(scale)}, which reads others, too")
        return torch.where(known, channels.abs(), channels)

    def _holder(self, tensor: Tensor) -> str:
        """The module that holds a vector."""
        entries = numbers(self.facts.labels_of(tensor))
        vector = self.numbers.place(min(entries))[0] if entries else ""
        return vector.rpartition(".")[0] or vector or "a norm"

    # ---- what was found

    def along(self) -> dict[str, dict[str, list[int]]]:
        """Weight -> vector -> the row that each of its entries goes with, -1 for none."""
        found: dict[str, dict[str, list[int]]] = {}
        for entry, labels in self.sources.items():
            vector, place = self.numbers.place(entry)
            rows = [row for label in labels for row in self.rows_of(label)]
            if entry in self.spoiled or len(labels) > 1:
                reason = f"feeds {vector.rpartition('.')[0] or vector}, which reads others, too"
                for row in rows if entry not in self.harmless else ():
                    self.refused.setdefault(self.numbers.place(row)[0], reason)
                continue
            size = self.numbers.holders.first(vector).parameter.numel()
            for weight, at in map(self.numbers.place, rows):
                found.setdefault(weight, {}).setdefault(vector, [-1] * size)[place] = at
        return found


def _own_statistics(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a norm works by statistics of each channel of the batch itself."""
    batch = given.get("training", given.get("use_input_stats", given.get("train", False)))
    return name in ops.BATCH_NORMS and bool(batch)
