"""Writes into parameters by others than the masks and the optimizers that they follow."""

from __future__ import annotations

import torch

from prunekit.foundation.warn import LOG
from prunekit.pruning.weight_store import WeightStore


class Writes:
    """What a loop has written into weights holds where they are kept, as in a plain model.

    Sees that something wrote to a parameter, by the count of writes that autograd keeps. Writes
    through `.data`, as those of masks themselves are, count as none.

    Args:
        weights: where they are kept.
    """

    def __init__(self, weights: WeightStore) -> None:
        self._weights = weights
        self._seen = dict[str, int]()
        self._told = set[str]()  # parameters whose writes were told
        self.note()

    def note(self) -> None:
        """Whatever was written so far is known."""
        self._seen = {name: param._version for name, param in self._weights.params.items()}

    @torch.no_grad()
    def take_over(self) -> None:
        """Keep what was written since `note`; pruned weights are zeroed, with a warning."""
        kept = self._weights
        written = [name for name in self._new() if name in kept.working]
        for name in written:
            if kept.modes[name] == "ste":
                kept.take_over(name)
        for name, found in kept.zero_pruned(written).items():
            if name not in self._told:
                LOG.warning(written_by_others(name, found))
            self._told.add(name)
        self.note()

    def _new(self) -> list[str]:
        """The parameters that were written to since `note`."""
        params = self._weights.params
        return [name for name, param in params.items() if param._version != self._seen[name]]


def written_by_others(name: str, count: int) -> str:
    """What to say where that was in pruned weights, after they were zeroed."""
    return (
        f"{count} pruned weights of {name} were not zero, and are now: something else than the "
        "attached optimizer wrote them"
    )
