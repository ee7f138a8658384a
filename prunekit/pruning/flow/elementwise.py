"""Operations element by element, tried: what comes out where a row is 0, whatever the rest is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map

from prunekit.pruning.flow.labels import BASE, FREE, LOST, NONE, has_number, numbers, uniform
from prunekit.pruning.flow.values import Values
from prunekit.pruning.flow.watch import FlowWatch


@dataclass(frozen=True)
class _Call:
    """An operation with its arguments."""

    func: OpOverload
    args: Any
    kwargs: Any
    moving: Sequence[Tensor]
    """The arguments that depend on the input."""
    watch: FlowWatch

    @property
    def tensors(self) -> list[Tensor]:
        """All its tensors."""
        return [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def with_zeros(self, *zeroed: Tensor) -> Tensor:
        """What comes out where these are 0, and what else moves is random."""
        new = {id(t): self.watch.noise_like(t) for t in self.moving}
        new |= {id(t): torch.zeros_like(t) for t in zeroed}
        args, kwargs = tree_map(lambda leaf: new.get(id(leaf), leaf), (self.args, self.kwargs))
        tried: Tensor = self.func(*args, **kwargs)
        return tried


class Elementwise(FlowWatch):  # type: ignore[no-untyped-call]
    """The elementwise part of following rows; labels are those of `ChannelWatch`."""

    spoiled: set[int]

    def __init__(self, values: Values, operands: Sequence[Tensor] | None = None) -> None:
        super().__init__(values, operands)
        self._products: dict[tuple[int, int], int] = {}
        self._factors: dict[int, tuple[int, ...]] = {}
        self.__post_init__()

    @abc.abstractmethod
    def __post_init__(self) -> None:
        """Set up what is found."""

    @abc.abstractmethod
    def shifted(self, labels: Tensor, entries: Tensor, moved: Tensor) -> Tensor:
        """Labels after a shift.

        Args:
            labels: before it, of any sign.
            entries: what the shift is made of, by element; no vector's where a constant is.
            moved: where it is not 0.
        """

    def rows_of(self, label: float) -> tuple[int, ...]:
        """The rows of a label: one, or those whose product it is."""
        number = int(abs(label))
        return self._factors.get(number, (number,))

    def is_entry(self, labels: Tensor) -> Tensor:
        """Where a label is that of an entry of a vector."""
        return (labels >= self.numbers.rows_end) & (labels < self.numbers.end)

    def pointwise(self, func: OpOverload, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        """0 where it is 0 whenever a row is; constant where it depends on one row alone."""
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        moving = list({id(t): t for t in leaves if self.facts.is_dynamic(t)}.values())
        call = _Call(func, args, kwargs, moving, self)
        labels = [self.facts.labels_of(t).expand(out.shape) for t in moving]
        if not any(bool((one != NONE).any()) for one in labels):
            for still in (t for t in leaves if not self.facts.is_dynamic(t)):
                self.spoiled |= numbers(self.facts.labels_of(still))
            return labels[0]
        joined = uniform(torch.stack([one.abs() for one in labels]), [0])[0]
        zero = call.with_zeros(*moving) == 0
        positive = torch.stack([one > 0 for one in labels]).all(0)
        found = torch.where(positive & zero, joined, -joined.abs())
        found = torch.where(joined == FREE, torch.where(zero, FREE, NONE), found)
        found = torch.where(joined == NONE, NONE, found)
        found = self._shifted_by_constants(
            call, joined, positive & ~zero & has_number(joined), found
        )
        for tensor, one in zip(moving, labels, strict=True):
            absorbs = (call.with_zeros(tensor) == 0) & has_number(one) & (one > 0)
            both = absorbs & (found > 0) & (found != one) & has_number(found)
            found = torch.where(absorbs & ~(found > 0), one, found)
            found = self._multiplied(found, one, both) if both.any() else found
        lost = torch.stack([one == LOST for one in labels]).any(0)
        return torch.where(lost & ~(found > 0), LOST, found)

    def _shifted_by_constants(
        self, call: _Call, joined: Tensor, shifted: Tensor, found: Tensor
    ) -> Tensor:
        """Labels where parameters or constants make a 0 into something else."""
        still = {id(t): t for t in call.tensors if t.is_floating_point() and t.numel() > 1}
        for tensor in (t for t in still.values() if not self.facts.is_dynamic(t)):
            if shifted.any():
                at = shifted & (call.with_zeros(*call.moving, tensor) == 0)
                entries = self.facts.labels_of(tensor).expand(found.shape)
                channelwise = sum(n != 1 for n in tensor.shape) == 1
                vector = self.is_entry(entries) | (entries == NONE) & channelwise
                before = torch.where(at, torch.where(vector, joined, NONE), NONE)
                found = torch.where(at, self.shifted(before, entries, at & vector), found)
                shifted = shifted & ~at
        return found

    def _multiplied(self, left: Tensor, right: Tensor, at: Tensor) -> Tensor:
        """A product is 0 where any of its factors is."""
        keys, places = torch.unique(left[at] * BASE + right[at], return_inverse=True)
        products = []
        for key in keys.tolist():
            pair = divmod(int(key), BASE)
            number = self._products.setdefault(pair, self.numbers.end + len(self._products))
            self._factors[number] = (*self.rows_of(pair[0]), *self.rows_of(pair[1]))
            products.append(float(number))
        found = left.clone()
        found[at] = left.new_tensor(products)[places]
        return found
