"""Each entry for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from prunekit.foundation.parameters import Holders
from prunekit.pruning.counts import count_entries
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.structures.base import Structure
from prunekit.pruning.structures.units import Group, Part, Units


class Unstructured(Structure):
    """Each entry is a unit."""

    name: Literal["unstructured"] = "unstructured"

    @property
    def unit_name(self) -> str:
        """Single entries."""
        return "entries"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`."""
        return entries(Holders(model), names)

    def cover(self, model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
        """`names`: no entry takes another along."""
        return tuple(names)

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Entries kept, and entries in all."""
        return count_entries(masks)

    def select(
        self, model: nn.Module, demand: Demand, distribution: Distribution
    ) -> dict[str, Tensor]:
        """See `Structure`; the scores are ranked as they are."""
        return distribution.select(demand)


def entries(holders: Holders, names: Iterable[str]) -> Units:
    """Units of one entry."""
    shapes = {name: holders.first(name).shape for name in names}
    return Units(
        {
            name: Group(numel, shape, (Part(name, shape, (numel,), (0,)),))
            for name, shape in shapes.items()
            for numel in (holders.first(name).parameter.numel(),)
        }
    )
