"""What a distribution is."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from fractions import Fraction

from torch import Tensor

from prunekit.foundation.values import Frozen
from prunekit.pruning.apportion import apportion
from prunekit.pruning.selection import keep_count, top_mask, warn_held

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the weight that the units are of; with structures, a score is one a unit."""


class Distribution(Frozen, abc.ABC):
    """Splits the units to keep over tensors.

    Always so: no tensor keeps less than `min_keep` of its units, or all if it has fewer; the counts
    sum to `keep_count(all units, sparsity, the min_keep of all tensors together)`; and a higher
    sparsity never raises the count of any tensor, so that masks can only shrink.
    """

    name: str

    @abc.abstractmethod
    def keep_counts(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, int]:
        """How many units each tensor keeps.

        Args:
            scores: name -> one score a unit.
            sparsity: fraction of all units to prune, [0, 1].
            min_keep: units that each tensor keeps at least.
            shapes: name -> shape of the weight; None takes those of the scores.

        Raises:
            RecipeError: this distribution does not fit these tensors.
        """

    def select(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, Tensor]:
        """Bool masks of the best `keep_counts` units of each tensor; arguments as there."""
        counts = self.keep_counts(scores, sparsity, min_keep, shapes=shapes)
        return {name: top_mask(score, counts[name]) for name, score in scores.items()}

    def check(self, sizes: Mapping[str, int], sparsity: float) -> None:
        """Make sure that the split at the final `sparsity` is the one that the settings name.

        Args:
            sizes: name -> units in scope.
            sparsity: the strategy's final sparsity.

        Raises:
            RecipeError: it is not.
        """


def floors_of(sizes: Mapping[str, int], min_keep: int) -> dict[str, int]:
    """What `min_keep` asks of each tensor: never more than it has."""
    return {name: min(min_keep, size) for name, size in sizes.items()}


def split(
    weights: Mapping[str, Fraction | int], sizes: Mapping[str, int], sparsity: float, min_keep: int
) -> dict[str, int]:
    """Units to keep in each tensor, in proportion to `weights`; says where `min_keep` holds."""
    floors = floors_of(sizes, min_keep)
    keep = keep_count(sum(sizes.values()), sparsity, sum(floors.values()))
    counts = apportion(keep, weights, sizes, floors)
    if min_keep:
        free = apportion(keep, weights, sizes)
        warn_held(name for name in counts if counts[name] > free[name])
    return counts
