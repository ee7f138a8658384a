"""Which images could not be read and were passed over, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from itertools import accumulate
from typing import Literal, Protocol

import torch
from torch import Tensor

from prunekit.foundation.warn import LOG

Part = Literal["train", "validation", "test"]
TOLD = 5
"""So many are warned of one by one."""


class Described(Sized, Protocol):
    """Images that have names."""

    def describe(self, place: int) -> str:
        """The path of one."""
        ...


class Skipped:
    """The broken images of a set that this process met.

    Args:
        parts: of the set.
    """

    def __init__(self, parts: Mapping[Part, Described]) -> None:
        self._parts = parts
        sizes = [len(part) for part in parts.values()]
        self._first = dict(zip(parts, accumulate(sizes, initial=0), strict=False))
        self._flags = torch.zeros(sum(sizes), dtype=torch.bool)
        self._told = 0

    def add(self, part: Part, broken: Iterable[tuple[int, str]]) -> None:
        """Note some, each once, and warn of the first."""
        for place, message in broken:
            at = self._first[part] + place
            if self._flags[at]:
                continue
            self._flags[at] = True
            self._told += 1
            if self._told <= TOLD:
                LOG.warning("skipped: %s%s", message, "; no more are told" * (self._told == TOLD))

    @property
    def flags(self) -> Tensor:
        """Bool [N] over all parts; empty where nothing can be passed over."""
        return self._flags

    def also(self, others: Tensor) -> None:
        """Those that other processes met, or this one before it was resumed, int64."""
        self._flags[others] = True

    def names(self, most: int) -> list[str]:
        """What the first of them are called."""
        found, first = list[str](), 0
        for part in self._parts.values():
            flags = self._flags[first : first + len(part)]
            found += map(part.describe, flags.nonzero().flatten()[:most].tolist())
            first += len(part)
        return found[:most]
