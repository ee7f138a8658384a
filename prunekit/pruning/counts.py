"""What is counted of masks: on a device all of it together, so that the host waits once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunekit.foundation.transfer import read
from prunekit.pruning.scores import count_each, count_true

Values = np.ndarray[Any, np.dtype[Any]]

MIXERS = (-7046029254386353131, -4417276706812531889)
"""Odd, and of no pattern: the golden ratio of 2^64, and the factor of SplitMix64."""


@dataclass(frozen=True, slots=True)
class MaskCount:
    """Of one mask."""

    entries: int
    kept: int
    rows: int
    """Rows of dimension 0, the output units; 0 for a vector, whose entries are not rows."""
    empty_rows: int
    """Rows without a single kept entry."""
    flips: int = 0
    """Entries that differ from the mask before."""
    fingerprint: bytes = b""
    """Where it was asked for: equal on two ranks exactly where the masks are."""

    def changed(self, gain: int, empty_rows: int) -> MaskCount:
        """Of a mask that keeps `gain` entries more; of flips nothing is said."""
        return MaskCount(self.entries, self.kept + gain, self.rows, empty_rows)


class Counted(Mapping[str, Tensor]):
    """Masks with their counts, which are known: a mask is made where it is read."""

    def __init__(
        self, names: Iterable[str], mask: Callable[[str], Tensor], counts: Mapping[str, MaskCount]
    ) -> None:
        self.counts = {name: counts[name] for name in names}
        self._mask = mask

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.counts:
            raise KeyError(name)
        return self._mask(name)

    def __contains__(self, name: object) -> bool:
        return name in self.counts

    def __iter__(self) -> Iterator[str]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)


def counts_of(masks: Mapping[str, Tensor]) -> Mapping[str, MaskCount]:
    """The counts of masks, which are known or are counted now."""
    return masks.counts if isinstance(masks, Counted) else count_masks(masks)[0]


def count_entries(masks: Mapping[str, Tensor]) -> tuple[int, int]:
    """Entries kept, and entries in all."""
    if isinstance(masks, Counted):
        counts = masks.counts.values()
        return sum(one.kept for one in counts), sum(one.entries for one in counts)
    return sum(count_each(masks.values())), sum(mask.numel() for mask in masks.values())


def count_masks(
    masks: Mapping[str, Tensor],
    old: Callable[[str], Tensor | None] | None = None,
    flags: Sequence[Tensor] = (),
    *,
    fingerprints: bool = False,
) -> tuple[dict[str, MaskCount], list[int]]:
    """Count masks, on a device with one wait.

    Args:
        masks: name -> bool of any shape.
        old: the mask before; None: nothing is said of flips.
        flags: bool tensors of one entry, to be read along.
        fingerprints: whether they are wanted.

    Returns:
        The counts, and what the flags say.
    """
    asked: dict[str, list[Tensor]] = {}
    counts: dict[str, MaskCount] = {}
    for name, mask in masks.items():
        before = None if old is None else old(name)
        if mask.device.type == "cpu":
            counts[name] = _on_host(mask, before, fingerprints=fingerprints)
        else:
            asked[name] = _on_device(mask, before, fingerprints=fingerprints)
    told = read([*flags, *(one for several in asked.values() for one in several)])
    said, rest = told[: len(flags)], iter(told[len(flags) :])
    for name, several in asked.items():
        kept, empty, flips, *lanes = (next(rest) for _ in several)
        own = b"".join(lane.to_bytes(8, "little", signed=True) for lane in lanes)
        mask = masks[name]
        counts[name] = MaskCount(mask.numel(), kept, _rows(mask), empty, flips, own)
    return {name: counts[name] for name in masks}, said


def _rows(mask: Tensor) -> int:
    return len(mask) if mask.ndim > 1 else 0


def _on_host(mask: Tensor, old: Tensor | None, *, fingerprints: bool) -> MaskCount:
    flips = 0 if old is None else count_true(old ^ mask)
    empty = empty_rows(mask.numpy())
    own = hashlib.sha256(np.packbits(mask.numpy()).tobytes()).digest() if fingerprints else b""
    return MaskCount(mask.numel(), count_true(mask), _rows(mask), empty, flips, own)


def empty_rows(mask: Values) -> int:
    """Rows of a mask without a True; 0 for a vector."""
    if mask.ndim < 2 or not mask.size:
        return len(mask) if mask.ndim > 1 else 0
    rows = mask.reshape(len(mask), -1)
    first = rows.argmax(axis=1)  # reads no row farther than to its first True; `any` is slower
    return int(np.count_nonzero((first == 0) & ~rows[:, 0]))


def _on_device(mask: Tensor, old: Tensor | None, *, fingerprints: bool) -> list[Tensor]:
    kept = mask.sum()
    none = kept.new_zeros(())
    empty = (~mask.flatten(1).any(1)).sum() if mask.ndim > 1 else none
    flips = none if old is None else (old ^ mask).sum()
    return [kept, empty, flips, *(lanes(mask) if fingerprints else ())]


def lanes(mask: Tensor) -> list[Tensor]:
    """Two sums of 64 bits over all entries, each mixed with its place.

    Not made against an adversary: masks that differ by chance agree in both once in 2^128.
    """
    padded = torch.zeros(-(-mask.numel() // 8) * 8, dtype=torch.uint8, device=mask.device)
    padded[: mask.numel()] = mask.flatten()
    words = padded.view(torch.int64)
    place = torch.arange(1, len(words) + 1, device=mask.device)
    found = []
    for first, second in (MIXERS, MIXERS[::-1]):
        mixed = (words + place * first) * second  # int64 wraps, as is meant here
        mixed = (mixed ^ (mixed >> 29)) * first
        found.append((mixed ^ (mixed >> 32)).sum())
    return found
