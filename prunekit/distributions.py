"""How a total is split over tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor

from prunekit.apportion import apportion
from prunekit.frozen import Frozen, name_only
from prunekit.selection import keep_count, top_mask, top_masks_global

Shapes = Mapping[str, tuple[int, ...]]


class Distribution(Frozen):
    """Splits the units to keep over tensors: exact in the total, nested in the sparsity."""

    name: str

    def keep_counts(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, int]:
        """Units to keep in each tensor."""
        raise NotImplementedError

    def select(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, Tensor]:
        """Bool masks of the units to keep."""
        counts = self.keep_counts(scores, sparsity, min_keep, shapes=shapes)
        return {name: top_mask(score, counts[name]) for name, score in scores.items()}


class Uniform(Distribution):
    """The same sparsity in each tensor."""

    name: Literal["uniform"] = "uniform"

    def keep_counts(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, int]:
        """Units to keep in each tensor."""
        sizes = {name: score.numel() for name, score in scores.items()}
        floors = {name: min(min_keep, size) for name, size in sizes.items()}
        keep = keep_count(sum(sizes.values()), sparsity, sum(floors.values()))
        return apportion(keep, sizes, sizes, floors)


class Global(Distribution):
    """One ranking over all tensors."""

    name: Literal["global"] = "global"

    def keep_counts(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, int]:
        """Units to keep in each tensor."""
        masks = self.select(scores, sparsity, min_keep)
        return {name: int(mask.sum()) for name, mask in masks.items()}

    def select(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, Tensor]:
        """Bool masks of the units to keep."""
        keep = keep_count(sum(score.numel() for score in scores.values()), sparsity)
        return top_masks_global(scores, keep)


AnyDistribution = Annotated[
    Annotated[Uniform | Global, Field(discriminator="name")], BeforeValidator(name_only)
]
"""Any distribution; one with only a name may be written as a string."""
