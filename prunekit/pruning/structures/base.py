"""What a structure is."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from prunekit.foundation.values import Frozen
from prunekit.pruning.distributions import Distribution
from prunekit.pruning.structures.units import Units


class Structure(Frozen, abc.ABC):
    """Which entries are kept or pruned together: a unit. Every count is in units."""

    name: str

    @abc.abstractmethod
    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """The units of the parameters `names`, with what goes along in other parameters.

        Raises:
            RecipeError: a parameter has no such units.
        """

    def cover(self, model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
        """`names`, then the parameters whose entries stand and fall with theirs.

        Raises:
            RecipeError: see `units`.
        """
        names = tuple(names)
        return tuple(dict.fromkeys((*names, *self.units(model, names).names)))

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Units kept, and units in all, of the parameters in `masks`."""
        units = self.units(model, masks)
        kept = sum(int(kept.sum()) for kept in units.collapse(masks).values())
        return kept, sum(units.sizes.values())

    @abc.abstractmethod
    def select(
        self,
        model: nn.Module,
        scores: Mapping[str, Tensor],
        sparsity: float,
        distribution: Distribution,
        min_keep: int = 0,
    ) -> dict[str, Tensor]:
        """Bool masks of everything in the `cover` of the scored parameters.

        Args:
            model: where the parameters are.
            scores: parameter in scope -> score of each entry; higher is kept; -inf comes last.
            sparsity: fraction of the units to prune.
            distribution: how the total is split.
            min_keep: units that each group keeps at least.
        """

    def reach(self, sparsity: float) -> float:
        """The sparsity that masks have where `sparsity` is asked."""
        return sparsity

    def check(self, sparsity: float) -> None:
        """Make sure that the final `sparsity` can be had.

        Raises:
            RecipeError: it cannot.
        """


class Grouped(Structure):
    """Units of several entries, ranked by a norm of their scores."""

    norm: Literal["l1", "l2"] = "l2"
    """How a unit's score is pooled from those of its entries: by mean or by root mean square, so
    that units of different size compare."""

    def select(
        self,
        model: nn.Module,
        scores: Mapping[str, Tensor],
        sparsity: float,
        distribution: Distribution,
        min_keep: int = 0,
    ) -> dict[str, Tensor]:
        """See `Structure`."""
        units = self.units(model, scores)
        pooled = units.pool(scores, power=2 if self.norm == "l2" else 1)
        kept = distribution.select(pooled, sparsity, min_keep, shapes=units.shapes)
        return units.expand(kept)
