"""Entries of several tensors that are ranked as one: what a search asks of them."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunekit.foundation.transfer import send
from prunekit.pruning.scores import NOT_FINITE, Key

Values = np.ndarray[Any, np.dtype[Any]]
"""A flat array."""


FEW = 1 << 15
"""Values that are put in order at once."""
EVENLY = 0.02
"""How far from its place, in parts of the bracket, a value that lies evenly is looked for."""


@lru_cache(maxsize=4)
def _places(size: int, count: int) -> Values:
    places: Values = np.sort(np.random.default_rng(0).integers(0, size, count))
    return places


class ScorePool(abc.ABC):
    """Entries of several tensors, in their order, in one precision that holds each exactly."""

    block: int
    """Entries read at once."""

    def __init__(self, tensors: Sequence[Tensor], key: Key | None = None) -> None:
        for tensor in tensors:
            if not tensor.is_floating_point():
                raise ValueError(f"scores are floating point, not {tensor.dtype}")
        wide = any(tensor.dtype == torch.float64 for tensor in tensors)
        self.dtype = torch.float64 if wide else torch.float32
        self.key = key
        self.flat = [tensor.detach().reshape(-1) for tensor in tensors]
        self.size = sum(flat.numel() for flat in self.flat)

    def read(self, part: Tensor) -> Tensor:
        """Entries, made from a part of a tensor."""
        return (part if self.key is None else self.key(part)).to(self.dtype)

    def rounded(self, value: float) -> float:
        """`value` as a number of the pool's precision."""
        return torch.tensor(value, dtype=self.dtype).item()

    def sample(self, count: int) -> Tensor:
        """`count` entries at fixed random places, ascending, where the pool is."""
        places = _places(self.size, count)
        ends = np.cumsum([flat.numel() for flat in self.flat])
        in_each = np.split(places, places.searchsorted(ends[:-1]))
        drawn = []
        for flat, end, here in zip(self.flat, ends, in_each, strict=True):
            offsets = torch.from_numpy(here - (end - flat.numel()))
            drawn.append(flat[send(offsets, flat.device)].to(self.dtype))
        return self.ascending(self.read(torch.cat(drawn)))

    @abc.abstractmethod
    def ascending(self, drawn: Tensor) -> Tensor:
        """A sample in order."""

    @abc.abstractmethod
    def at_least(self, edge: float) -> list[Tensor]:
        """Flat bool masks of the entries >= edge."""

    @abc.abstractmethod
    def drop_last_ties(self, masks: list[Tensor], edge: float, surplus: int) -> None:
        """Set the last `surplus` of the entries == edge to False."""


class HostPool(ScorePool):
    """On the CPU, by numpy: its comparisons and `compress` are several times as fast as torch's."""

    block = 1 << 17  # 512 KiB of float32: stays in the cache over the passes
    unseen = False
    """Whether entries that are not finite are to be refused, and not all were looked at yet."""

    def blocks(self) -> Iterator[Values]:
        """The entries of each tensor in turn, at most `block` at once; each is gone at the next."""
        for flat in self.flat:
            yield from self.blocks_of(flat)

    def blocks_of(self, flat: Tensor, *, backward: bool = False) -> Iterator[Values]:
        """Those of one tensor; |x| without fresh memory, which costs more than to compute it."""
        starts = range(0, flat.numel(), self.block)
        plain = self.key is torch.abs and flat.dtype == self.dtype
        values = flat.numpy() if plain else None
        memory = None if values is None else np.empty(min(self.block, len(flat)), values.dtype)
        for i in reversed(starts) if backward else starts:
            if values is None or memory is None:
                block: Values = self.read(flat[i : i + self.block]).numpy()
            else:
                part = values[i : i + self.block]
                block = np.abs(part, out=memory[: part.size])
            yield block

    def ascending(self, drawn: Tensor) -> Tensor:
        """See `ScorePool`."""
        return torch.from_numpy(np.sort(drawn.numpy()))

    def split(self, low: float, high: float, most: int) -> tuple[int, Tensor] | None:
        """How many entries are >= high; and the entries in between, with all that are NaN.

        None where more than `most` are in between.

        Raises:
            ValueError: an entry is not finite, and nobody has looked before.
        """
        above, inside = 0, [np.empty(0, dtype=np.float32)]
        is_under = np.less_equal if low < high else np.less  # no entry is on both sides
        under, over = np.empty((2, self.block), dtype=np.bool_)
        for x in self.blocks():
            if self.unseen:
                self._refuse_not_finite(x)
            below, beyond = under[: x.size], over[: x.size]
            is_under(x, low, out=below)
            np.greater_equal(x, high, out=beyond)
            above += int(np.count_nonzero(beyond))
            inside.append(x.compress(np.equal(below, beyond, out=below)))  # on neither
            most -= inside[-1].size
            if most < 0:
                return None
        self.unseen = False
        return above, torch.from_numpy(np.concatenate(inside))

    def look(self) -> None:
        """Look at what no search has looked at.

        Raises:
            ValueError: an entry is not finite.
        """
        for x in self.blocks() if self.unseen else ():
            self._refuse_not_finite(x)
        self.unseen = False

    def _refuse_not_finite(self, x: Values) -> None:
        ends = [np.maximum.reduce(x)]  # NaN where an entry is; in half the time of a sum
        if self.key is not torch.abs:
            ends.append(np.minimum.reduce(x))
        if not all(map(math.isfinite, ends)):
            raise ValueError(NOT_FINITE)

    def count(self, edge: float) -> tuple[int, int]:
        """How many entries are > edge, and == edge."""
        over = at = 0
        for x in self.blocks():
            over += int(np.count_nonzero(x > edge))
            at += int(np.count_nonzero(x == edge))
        return over, at

    def largest(self, values: Tensor, rank: int) -> float:
        """The `rank`-th largest (1 .. numel) of values that `split` gave.

        In a narrow bracket they lie evenly: so few need to be put in order.
        """
        x = values.numpy()
        low, high = float(x.min()), float(x.max())
        if x.size > FEW and high - low < np.inf:
            share = 1 - rank / x.size
            first, last = (low + (high - low) * (share + side) for side in (-EVENLY, EVENLY))
            above = int(np.count_nonzero(x >= last))
            middle = x.compress((x >= first) & (x < last))
            if above < rank <= above + middle.size:
                x, rank = middle, rank - above
        place = x.size - rank
        return float(np.partition(x, place)[place])

    def at_least(self, edge: float) -> list[Tensor]:
        """See `ScorePool`."""
        masks = []
        for flat in self.flat:
            mask, done = np.empty(flat.numel(), np.bool_), 0
            for x in self.blocks_of(flat):
                np.greater_equal(x, edge, out=mask[done : done + x.size])
                done += x.size
            masks.append(torch.from_numpy(mask))
        return masks

    def drop_last_ties(self, masks: list[Tensor], edge: float, surplus: int) -> None:
        """See `ScorePool`."""
        for flat, mask in zip(reversed(self.flat), reversed(masks), strict=True):
            end = flat.numel()
            for x in self.blocks_of(flat, backward=True):
                if not surplus:
                    return
                ties = np.flatnonzero(x == edge)[-surplus:]
                mask.numpy()[end - x.size + ties] = False
                surplus -= ties.size
                end -= x.size
