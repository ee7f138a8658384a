"""Scores by name, and what ranking them all once tells about the next time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from prunekit.errors import PluginError
from prunekit.foundation.transfer import read

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
        self.unseen = False
        """Whether nobody has looked yet if all entries are finite: a ranking of all of them on the
        CPU does, as it reads them anyway, and then says False."""

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


def finite_flags(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whether no entry is infinite or NaN: of those on a device by name, not read yet.

    Raises:
        PluginError: one on the CPU is not.
    """
    flags = {}
    for name, score in scores.items():
        if score.device.type != "cpu":
            flags[name] = score.isfinite().all()
        elif not all_finite(score):
            raise PluginError(f"{name}: {NOT_FINITE}")
    return flags


NOT_FINITE = "the score is not finite"


def count_true(mask: Tensor) -> int:
    """How many entries of a bool tensor are True; torch's own sum takes five times as long."""
    return int(np.count_nonzero(mask.numpy())) if mask.device.type == "cpu" else int(mask.sum())


def count_each(masks: Iterable[Tensor]) -> list[int]:
    """`count_true` of each; the host waits for a device once, not once for each."""
    counts = [count_true(m) if m.device.type == "cpu" else m.sum() for m in masks]
    told = iter(read([count for count in counts if isinstance(count, Tensor)]))
    return [next(told) if isinstance(count, Tensor) else count for count in counts]
