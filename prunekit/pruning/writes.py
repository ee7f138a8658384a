"""Writes into parameters by others than the masks and the optimizers that they follow."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class Writes:
    """Sees that something wrote to a parameter, by the count of writes that autograd keeps.

    Writes through `.data`, as those of masks themselves are, count as none.

    Args:
        params: name -> parameter.
    """

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = params
        self._seen = dict[str, int]()
        self.note()

    def note(self) -> None:
        """Whatever was written so far is known."""
        self._seen = {name: param._version for name, param in self.params.items()}

    def new(self) -> list[str]:
        """The parameters that were written to since `note`."""
        return [name for name, param in self.params.items() if param._version != self._seen[name]]


def written_by_others(name: str, count: int) -> str:
    """What to say where that was in pruned weights, after they were zeroed."""
    return (
        f"{count} pruned weights of {name} were not zero, and are now: something else than the "
        "attached optimizer wrote them"
    )
