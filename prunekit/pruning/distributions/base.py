"""What a distribution is, and what is asked of it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from prunekit.foundation.values import ComponentConfig
from prunekit.pruning.apportion import apportion
from prunekit.pruning.scores import sizes_of
from prunekit.pruning.selection import keep_count, top_masks, warn_held

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the weight that the units are of; with structures, a score is one a unit."""


@dataclass(frozen=True, slots=True)
class Demand:
    """How many units are to be kept, of which tensors, and what ranks them."""

    scores: Mapping[str, Tensor]
    """Name -> one score a unit; higher is kept."""
    sparsity: float
    """Share of all units to prune, [0, 1]."""
    min_keep: int = 0
    """Units that each tensor keeps at least, or all if it has fewer."""
    shapes: Shapes | None = None
    """Name -> shape of the weight that the units are of; None: those of the scores."""
    finite: bool = False
    """Whether who asks has looked at the scores, or will: none of them is NaN."""

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> units."""
        return sizes_of(self.scores)

    @property
    def floors(self) -> dict[str, int]:
        """What `min_keep` asks of each tensor: never more than it has."""
        return {name: min(self.min_keep, size) for name, size in self.sizes.items()}

    @property
    def keep(self) -> int:
        """Units to keep in all."""
        return keep_count(sum(self.sizes.values()), self.sparsity, sum(self.floors.values()))

    def weight_shapes(self) -> Shapes:
        """Name -> shape of the weight that the units are of."""
        return self.shapes or {name: tuple(score.shape) for name, score in self.scores.items()}


class Distribution(ComponentConfig, abc.ABC):
    """Splits the units to keep over tensors; `prunekit.testing.check_distribution` checks it.

    Always so: no tensor keeps less than `min_keep` of its units, or all if it has fewer; the counts
    sum to `keep_count(all units, sparsity, the min_keep of all tensors together)`; and a higher
    sparsity never raises the count of any tensor, so that masks can only shrink. Equal demands give
    equal counts, on every rank.
    """

    paper: ClassVar[str] = ""
    """Where it comes from: `arXiv:NNNN.NNNNN`."""
    reads_scores: ClassVar[bool] = True
    """Whether counts depend on scores. Strategies that fix the count of each tensor for good, as
    `set` and `rigl`, take only what says False."""

    @abc.abstractmethod
    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """How many units each tensor keeps.

        Raises:
            RecipeError: this distribution does not fit these tensors.
        """

    def select(self, demand: Demand) -> dict[str, Tensor]:
        """Bool masks of the best `keep_counts` units of each tensor."""
        counts = self.keep_counts(demand)
        return top_masks((name, score, counts[name]) for name, score in demand.scores.items())

    def check(self, sizes: Mapping[str, int], sparsity: float) -> None:
        """Make sure that the split at the final `sparsity` is the one that the settings name.

        Args:
            sizes: name -> units in scope.
            sparsity: the strategy's final sparsity.

        Raises:
            RecipeError: it is not.
        """


def split(weights: Mapping[str, Fraction | int], demand: Demand) -> dict[str, int]:
    """Units to keep in each tensor, in proportion to `weights`; says where `min_keep` holds."""
    counts = apportion(demand.keep, weights, demand.sizes, demand.floors)
    if demand.min_keep:
        free = apportion(demand.keep, weights, demand.sizes)
        warn_held(name for name in counts if counts[name] > free[name])
    return counts
