"""What a structure is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from prunekit.distributions import Distribution
from prunekit.frozen import Frozen


class Structure(Frozen):
    """Which entries are kept or pruned together: a unit."""

    name: str

    def cover(self, model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
        """`names`, and the parameters whose entries go with theirs."""
        return tuple(names)

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Units kept, and units in all."""
        raise NotImplementedError

    def select(
        self,
        model: nn.Module,
        scores: Mapping[str, Tensor],
        sparsity: float,
        distribution: Distribution,
        min_keep: int = 0,
    ) -> dict[str, Tensor]:
        """Bool masks of everything in `cover`."""
        raise NotImplementedError
