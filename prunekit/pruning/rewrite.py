"""A new mask into what is kept of a weight: on the CPU in blocks, where little of it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 17
"""Entries at once: 256 KiB of float32 stay in the cache from one pass over them to the next."""
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


def rewrite(kept: AtRest, mask: Tensor) -> int:
    """Put `mask` in force: working, weight and shelf are as if all of them were computed anew.

    Args:
        kept: at rest, W*M in the weight; it `fits`.
        mask: bool, of its shape.

    Returns:
        Entries that changed.
    """
    weight, working = _flat(kept.weight), _flat(kept.working)
    source = weight if kept.dense is None else _flat(kept.dense)
    shelf = None if kept.shelf is None else _flat(kept.shelf)
    new = mask.contiguous().reshape(-1).numpy()  # masks may be expanded, or every second entry
    memory, total = np.empty(min(BLOCK, new.size), np.bool_), 0
    for i in range(0, new.size, BLOCK):
        part = slice(i, i + BLOCK)
        now, then = new[part], working[part]
        changed = _places(np.not_equal(then, 0, out=memory[: now.size]), now)
        if not changed.size:
            continue
        total += changed.size
        where = changed if changed.size * FEW <= now.size else slice(None)
        on, w = now[where], weight[part]
        if shelf is None:
            values = source[part][where]
        else:
            values = np.where(then[where] != 0, w[where], shelf[part][where])
            shelf[part][where] = values
        then[where] = on
        w[where] = values * then[where]
    return total


def _places(old: Values, new: Values) -> Values:
    """Where two masks differ; `old` is written over. Eight entries are compared as one word."""
    whole = new.size // 8 * 8
    old[whole:] ^= new[whole:]
    words = old[:whole].view(np.uint64)
    words ^= new[:whole].view(np.uint64)
    some = np.flatnonzero(words != 0)
    hit = np.flatnonzero(old[:whole].reshape(-1, 8).take(some, axis=0))
    places: Values = (some.take(hit >> 3) << 3) + (hit & 7)
    return np.append(places, whole + np.flatnonzero(old[whole:])) if whole < new.size else places


def _flat(tensor: Tensor) -> Values:
    values: Values = tensor.detach().reshape(-1).numpy()
    return values
