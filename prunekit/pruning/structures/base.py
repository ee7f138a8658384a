"""What a structure is."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from prunekit.foundation.values import ComponentConfig
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.multiples import Multiples
from prunekit.pruning.scores import count_each
from prunekit.pruning.structures.units import Units


class Structure(ComponentConfig, abc.ABC):
    """Which entries are kept or pruned together: a unit. Every count is in units.

    Always so: each entry of a parameter in scope is in one unit, no unit is split by a mask, as
    many stay as `reach`, `multiples` and the distribution say, and a higher sparsity keeps no unit
    that a lower one prunes. Equal demands give equal masks, on every rank; nothing but them is
    written. `prunekit.testing.check_structure` checks it.
    """

    paper: ClassVar[str] = ""
    """Where it comes from: `arXiv:NNNN.NNNNN`."""
    exact: ClassVar[bool] = True
    """Whether as many units stay as `reach` and `multiples` say. False: as many as the layers can
    have in its pattern, next to that; then a count is reported, and none is promised."""

    @property
    def unit_name(self) -> str:
        """What its units are called, in the plural."""
        return f"{self.name}s"

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
        return sum(count_each(units.collapse(masks).values())), sum(units.sizes.values())

    @abc.abstractmethod
    def select(
        self, model: nn.Module, demand: Demand, distribution: Distribution
    ) -> dict[str, Tensor]:
        """Bool masks of everything in the `cover` of the scored parameters.

        Args:
            model: where the parameters are.
            demand: of parameters in scope, with a score of each entry; -inf comes last.
            distribution: how the total of units is split.
        """

    def reach(self, sparsity: float) -> float:
        """The sparsity that masks have where `sparsity` is asked."""
        return sparsity

    def multiples(self, model: nn.Module, names: Iterable[str], min_keep: int) -> Multiples | None:
        """The counts that the tensors of a scope may keep; None: any.

        Raises:
            RecipeError: see `units`.
        """
        return None

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
        self, model: nn.Module, demand: Demand, distribution: Distribution
    ) -> dict[str, Tensor]:
        """See `Structure`."""
        units = self.units(model, demand.scores)
        pooled = units.pool(demand.scores, power=2 if self.norm == "l2" else 1)
        return units.expand(
            self.best(replace(demand, scores=pooled, shapes=units.shapes), distribution)
        )

    def best(self, demand: Demand, distribution: Distribution) -> dict[str, Tensor]:
        """Group -> bool [units], from one score a unit."""
        return distribution.select(demand)
