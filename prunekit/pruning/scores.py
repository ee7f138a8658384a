"""Scores by name, and what ranking them all once tells about the next time."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Key = Callable[[Tensor], Tensor]
"""Works entry by entry, and keeps shape, precision and finiteness: `torch.abs`."""


class Cut(NamedTuple):
    """Where a ranking of all entries was cut."""

    keep: int
    """Entries above the cut."""
    threshold: float
    """The lowest score of them."""


class Scores(Mapping[str, Tensor]):
    """Name -> score of each entry; higher is kept.

    With a `key` the scores are `key` of tensors that exist anyway. They are made when they are
    read, in a global ranking a block at a time, so that no second copy of the weights is held.
    """

    def __init__(self, tensors: Mapping[str, Tensor], key: Key | None = None) -> None:
        """Take scores, or what they are made of.

        Args:
            tensors: name -> floating point tensor of any shape.
            key: makes scores of them; None: they are the scores.
        """
        self.tensors = tensors
        self.key = key
        self.cut: Cut | None = None
        """Where a global ranking starts to search, and then what it found: changes the cost, not
        the result."""

    @classmethod
    def of(cls, scores: Mapping[str, Tensor]) -> Scores:
        """`scores` itself if it is one already."""
        return scores if isinstance(scores, cls) else cls(scores)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor if self.key is None else self.key(tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def sizes_of(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Units of each tensor; no score is made for it."""
    return {name: tensor.numel() for name, tensor in Scores.of(scores).tensors.items()}


def all_finite(score: Tensor) -> bool:
    """Whether no entry is infinite or NaN. The sum tells that in a tenth of the time, mostly."""
    return bool(score.sum().isfinite()) or bool(score.isfinite().all())


def pool_of(tensors: Sequence[Tensor], key: Key | None = None) -> ScorePool:
    """The pool for the device that `tensors` are on."""
    on_host = all(tensor.device.type == "cpu" for tensor in tensors)
    return (HostPool if on_host else DevicePool)(tensors, key)


def count_true(mask: Tensor) -> int:
    """How many entries of a bool tensor are True; torch's own sum takes five times as long."""
    return int(np.count_nonzero(mask.numpy())) if mask.device.type == "cpu" else int(mask.sum())


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

    def blocks(self) -> Iterator[Tensor]:
        """The entries of each tensor in turn, at most `block` at once."""
        for flat in self.flat:
            for part in self.parts(flat):
                yield self.read(part)

    def read(self, part: Tensor) -> Tensor:
        """Entries, made from a part of a tensor."""
        return (part if self.key is None else self.key(part)).to(self.dtype)

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat`, at most `block` long."""
        return [flat[i : i + self.block] for i in range(0, flat.numel(), self.block)]

    def rounded(self, value: float) -> float:
        """`value` as a number of the pool's precision."""
        return torch.tensor(value, dtype=self.dtype).item()

    def sample(self, count: int) -> Tensor:
        """`count` entries at fixed random places, ascending."""
        places = np.sort(np.random.default_rng(0).integers(0, self.size, count))
        ends = np.cumsum([flat.numel() for flat in self.flat])
        in_each = np.split(places, places.searchsorted(ends[:-1]))
        drawn = []
        for flat, end, here in zip(self.flat, ends, in_each, strict=True):
            offsets = torch.from_numpy(here - (end - flat.numel()))
            drawn.append(self.read(flat[offsets.to(flat.device)]))
        return torch.from_numpy(np.sort(torch.cat(drawn).cpu().numpy()))

    @abc.abstractmethod
    def split(self, low: float, high: float, most: int) -> tuple[int, Tensor] | None:
        """How many entries are >= high; and the entries in between, with all that are NaN.

        None where more than `most` are in between.
        """

    @abc.abstractmethod
    def count(self, edge: float) -> tuple[int, int]:
        """How many entries are > edge, and == edge."""

    @abc.abstractmethod
    def largest(self, values: Tensor, rank: int) -> float:
        """The `rank`-th largest (1 .. numel) of values that `split` gave."""

    @abc.abstractmethod
    def at_least(self, edge: float) -> tuple[list[Tensor], int]:
        """Flat bool masks of the entries >= edge, and how many are True."""

    def drop_last_ties(self, masks: list[Tensor], edge: float, surplus: int) -> None:
        """Set the last `surplus` of the entries == edge to False."""
        for flat, mask in zip(reversed(self.flat), reversed(masks), strict=True):
            for part, kept in zip(self.parts(flat)[::-1], self.parts(mask)[::-1], strict=True):
                if not surplus:
                    return
                ties = (self.read(part) == edge).nonzero().flatten()[-surplus:]
                kept[ties] = False
                surplus -= ties.numel()


class HostPool(ScorePool):
    """On the CPU, by numpy: its comparisons and `compress` are several times as fast as torch's."""

    block = 1 << 17  # 512 KiB of float32: stays in the cache over the passes

    def split(self, low: float, high: float, most: int) -> tuple[int, Tensor] | None:
        """See `ScorePool`."""
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
        """See `ScorePool`."""
        over = at = 0
        for part in self.blocks():
            x = part.numpy()
            over += int(np.count_nonzero(x > edge))
            at += int(np.count_nonzero(x == edge))
        return over, at

    def largest(self, values: Tensor, rank: int) -> float:
        """See `ScorePool`."""
        place = values.numel() - rank
        return float(np.partition(values.numpy(), place)[place])

    def at_least(self, edge: float) -> tuple[list[Tensor], int]:
        """See `ScorePool`."""
        masks, total = [], 0
        for flat in self.flat:
            mask = torch.empty(flat.numel(), dtype=torch.bool)
            for part, out in zip(self.parts(flat), self.parts(mask), strict=True):
                kept = out.numpy()
                np.greater_equal(self.read(part).numpy(), edge, out=kept)
                total += int(np.count_nonzero(kept))
            masks.append(mask)
        return masks, total


class DevicePool(ScorePool):
    """On an accelerator: counts stay there until a pass is done; no `kthvalue`, which is slow."""

    block = 1 << 24

    def split(self, low: float, high: float, most: int) -> tuple[int, Tensor] | None:
        """See `ScorePool`."""
        above, inside = [], []
        for x in self.blocks():
            over = x >= high
            above.append(over.sum())
            inside.append(x[~(over | (x <= low))])
            most -= len(inside[-1])
            if most < 0:
                return None
        return int(torch.stack(above).sum()), torch.cat(inside)

    def count(self, edge: float) -> tuple[int, int]:
        """See `ScorePool`."""
        counts = [torch.stack([(x > edge).sum(), (x == edge).sum()]) for x in self.blocks()]
        over, at = torch.stack(counts).sum(0).tolist()
        return over, at

    def largest(self, values: Tensor, rank: int) -> float:
        """See `ScorePool`."""
        return float(values.sort(descending=True).values[rank - 1])

    def at_least(self, edge: float) -> tuple[list[Tensor], int]:
        """See `ScorePool`."""
        masks = [self.read(flat) >= edge for flat in self.flat]
        return masks, int(torch.stack([mask.sum() for mask in masks]).sum())
