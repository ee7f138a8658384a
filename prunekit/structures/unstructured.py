"""Each entry for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from prunekit.distributions import Distribution
from prunekit.structures.base import Structure


class Unstructured(Structure):
    """Each entry is a unit."""

    name: Literal["unstructured"] = "unstructured"

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Entries kept, and entries in all."""
        kept = sum(int(mask.sum()) for mask in masks.values())
        return kept, sum(mask.numel() for mask in masks.values())

    def select(
        self,
        model: nn.Module,
        scores: Mapping[str, Tensor],
        sparsity: float,
        distribution: Distribution,
        min_keep: int = 0,
    ) -> dict[str, Tensor]:
        """Bool masks of the scores' shapes."""
        return distribution.select(scores, sparsity, min_keep)
