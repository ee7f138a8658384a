"""A new mask into what is kept of a weight: on the CPU in blocks, where little of it changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunekit.pruning.counts import empty_rows

COMPARED = 1 << 18
"""Entries compared at once, about: their 256 KiB of mask are in the cache when rows are counted."""
BLOCK = 1 << 17
"""Entries written at once: 512 KiB of float32 stay there from one pass over them to the next."""
FEW = 16
"""Where one entry in so many has changed, or fewer, they are written one by one."""

Values = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class AtRest:
    """What is kept of one weight."""

    weight: Tensor
    """W*M."""
    working: Tensor
    """The mask in its dtype."""
    dense: Tensor | None = None
    """W, in `ste`."""
    shelf: Tensor | None = None
    """The pruned values, in `masked`."""

    @property
    def fits(self) -> bool:
        """Whether it can be written in blocks."""
        return all(
            one.device.type == "cpu"
            and one.is_contiguous()
            and one.dtype in (torch.float32, torch.float64)
            for one in (self.weight, self.working, self.dense, self.shelf)
            if one is not None
        )


class Rewritten(NamedTuple):
    """What a new mask has changed."""

    flips: int
    """Entries that differ from the mask before."""
    gain: int = 0
    """Entries kept more than before, or less."""
    empty_rows: int = 0
    """Rows of the new mask without a kept entry; 0 where nothing has flipped: none was counted."""


def rewrite(kept: AtRest, mask: Tensor) -> Rewritten:
    """Put `mask` in force: working, weight and shelf are as if all of them were computed anew.

    Args:
        kept: at rest, W*M in the weight; it `fits`.
        mask: bool, of its shape.
    """
    weight, working = _flat(kept.weight), _flat(kept.working)
    dense = None if kept.dense is None else _flat(kept.dense)
    shelf = None if kept.shelf is None else _flat(kept.shelf)
    new = _flat(mask.contiguous())  # masks may be expanded, or every second entry
    step = _step(mask.shape)
    memory, unchanged = np.empty(min(step, new.size), np.bool_), list[Values]()
    flips = gain = empty = 0
    for i in range(0, new.size, step):
        now = new[i : i + step]
        old = np.not_equal(working[i : i + step], 0, out=memory[: now.size])
        rows = now.reshape(-1, *mask.shape[1:])
        changed = _places(old, now)
        if not changed.size:
            unchanged.append(rows)
            continue
        on = now[changed]
        flips += on.size
        gain += 2 * int(np.count_nonzero(on)) - on.size
        empty += empty_rows(rows)
        if on.size * FEW <= now.size:
            _write(changed + i, on, weight, working, dense, shelf)
            continue
        for part in _blocks(i, now.size):
            _write(part, new[part], weight, working, dense, shelf)
    if flips:
        empty += sum(map(empty_rows, unchanged))
    return Rewritten(flips, gain, empty)


def _step(shape: Sequence[int]) -> int:
    """How many entries are compared at once: whole rows, and whole words of eight entries."""
    least = math.lcm(8, max(1, math.prod(shape[1:])))
    return least * max(1, COMPARED // least)


def _blocks(begin: int, size: int) -> Iterator[slice]:
    """A stretch in blocks."""
    for i in range(begin, begin + size, BLOCK):
        yield slice(i, min(i + BLOCK, begin + size))


def _write(
    where: slice | Values,
    on: Values,
    weight: Values,
    working: Values,
    dense: Values | None,
    shelf: Values | None,
) -> None:
    values = weight[where] if dense is None else dense[where]
    if shelf is not None:
        values = np.where(working[where] != 0, values, shelf[where])
        shelf[where] = values
    working[where] = on
    weight[where] = values * on.astype(working.dtype)


def _places(old: Values, new: Values) -> Values:
    """Where two masks differ. Eight entries are compared as one word."""
    whole = new.size // 8 * 8
    before, after = old[:whole].view(np.uint64), new[:whole].view(np.uint64)
    some = (before != after).nonzero()[0]
    hit = (before[some] ^ after[some]).view(np.uint8).nonzero()[0]
    places: Values = (some[hit >> 3] << 3) + (hit & 7)
    if whole == new.size:
        return places
    return np.append(places, whole + np.flatnonzero(old[whole:] ^ new[whole:]))


def _flat(tensor: Tensor) -> Values:
    values: Values = tensor.detach().numpy().reshape(-1)
    return values
