"""Entries of several tensors that are ranked as one: what a search asks of them."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prunekit.foundation.transfer import send
from prunekit.pruning.scores import Key


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
        places = np.sort(np.random.default_rng(0).integers(0, self.size, count))
        ends = np.cumsum([flat.numel() for flat in self.flat])
        in_each = np.split(places, places.searchsorted(ends[:-1]))
        drawn = []
        for flat, end, here in zip(self.flat, ends, in_each, strict=True):
            offsets = torch.from_numpy(here - (end - flat.numel()))
            drawn.append(self.read(flat[send(offsets, flat.device)]))
        return self.ascending(torch.cat(drawn))

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

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat`, at most `block` long."""
        return [flat[i : i + self.block] for i in range(0, flat.numel(), self.block)]

    def blocks(self) -> Iterator[Tensor]:
        """The entries of each tensor in turn, at most `block` at once."""
        for flat in self.flat:
            for part in self.parts(flat):
                yield self.read(part)

    def ascending(self, drawn: Tensor) -> Tensor:
        """See `ScorePool`."""
        return torch.from_numpy(np.sort(drawn.numpy()))

    def split(self, low: float, high: float, most: int) -> tuple[int, Tensor] | None:
        """How many entries are >= high; and the entries in between, with all that are NaN.

        None where more than `most` are in between.
        """
        above, inside = 0, [np.empty(0, dtype=np.float32)]
        for part in self.blocks():
            x = part.numpy()
            under, over = x <= low, x >= high
            above += int(np.count_nonzero(over))
            np.logical_or(under, over, out=under)
            inside.append(x.compress(np.logical_not(under, out=under)))
            most -= inside[-1].size
            if most < 0:
                return None
        return above, torch.from_numpy(np.concatenate(inside))

    def count(self, edge: float) -> tuple[int, int]:
        """How many entries are > edge, and == edge."""
        over = at = 0
        for part in self.blocks():
            x = part.numpy()
            over += int(np.count_nonzero(x > edge))
            at += int(np.count_nonzero(x == edge))
        return over, at

    def largest(self, values: Tensor, rank: int) -> float:
        """The `rank`-th largest (1 .. numel) of values that `split` gave."""
        place = values.numel() - rank
        return float(np.partition(values.numpy(), place)[place])

    def at_least(self, edge: float) -> list[Tensor]:
        """See `ScorePool`."""
        masks = []
        for flat in self.flat:
            mask = torch.empty(flat.numel(), dtype=torch.bool)
            for part, out in zip(self.parts(flat), self.parts(mask), strict=True):
                np.greater_equal(self.read(part).numpy(), edge, out=out.numpy())
            masks.append(mask)
        return masks

    def drop_last_ties(self, masks: list[Tensor], edge: float, surplus: int) -> None:
        """See `ScorePool`."""
        for flat, mask in zip(reversed(self.flat), reversed(masks), strict=True):
            for part, kept in zip(self.parts(flat)[::-1], self.parts(mask)[::-1], strict=True):
                if not surplus:
                    return
                ties = (self.read(part) == edge).nonzero().flatten()[-surplus:]
                kept[ties] = False
                surplus -= ties.numel()
