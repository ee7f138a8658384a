"""A new mask into what is kept of a weight: on the CPU in blocks, where little of it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

COMPARED = 1 << 20
"""Entries compared at once: 1 MiB of mask."""
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
    gain: int
    """Entries kept more than before, or less."""


def rewrite(kept: AtRest, mask: Tensor) -> Rewritten:
    """Put `mask` in force: working, weight and shelf are as if all of them were computed anew.

    Args:
        kept: at rest, W*M in the weight; it `fits`.
        mask: bool, of its shape.
    """
    weight, working = _flat(kept.weight), _flat(kept.working)
    dense = None if kept.dense is None else _flat(kept.dense)
    shelf = None if kept.shelf is None else _flat(kept.shelf)
    new = mask.contiguous().reshape(-1).numpy()  # masks may be expanded, or every second entry
    memory, flips, gain = np.empty(min(COMPARED, new.size), np.bool_), 0, 0
    for i in range(0, new.size, COMPARED):
        part = slice(i, i + COMPARED)
        now = new[part]
        old = np.not_equal(working[part], 0, out=memory[: now.size])
        changed = _places(old, now)
        flips += changed.size
        gain += 2 * int(np.count_nonzero(now[changed])) - changed.size
        for where in _parts(changed, i, now.size):
            _write(where, new, weight, working, dense, shelf)
    return Rewritten(flips, gain)


def _parts(changed: Values, begin: int, size: int) -> Iterator[Any]:
    """What of a stretch is written: its changed entries, or the whole of it in blocks."""
    if changed.size * FEW > size:
        for i in range(begin, begin + size, BLOCK):
            yield slice(i, min(i + BLOCK, begin + size))
    elif changed.size:
        yield changed + begin


def _write(
    where: Any,
    new: Values,
    weight: Values,
    working: Values,
    dense: Values | None,
    shelf: Values | None,
) -> None:
    values = weight[where] if dense is None else dense[where]
    if shelf is not None:
        values = np.where(working[where] != 0, values, shelf[where])
        shelf[where] = values
    on = new[where].astype(working.dtype)
    working[where] = on
    weight[where] = values * on


def _places(old: Values, new: Values) -> Values:
    """Where two masks differ. Eight entries are compared as one word."""
    whole = new.size // 8 * 8
    before, after = (one[:whole].view(np.uint64) for one in (old, new))
    some = (before != after).nonzero()[0]
    hit = (before[some] ^ after[some]).view(np.uint8).nonzero()[0]
    places: Values = (some[hit >> 3] << 3) + (hit & 7)
    if whole == new.size:
        return places
    return np.append(places, whole + np.flatnonzero(old[whole:] ^ new[whole:]))


def _flat(tensor: Tensor) -> Values:
    values: Values = tensor.detach().reshape(-1).numpy()
    return values
