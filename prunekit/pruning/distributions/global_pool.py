"""One ranking of all units, whatever tensor they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunekit.pruning.distributions.base import Distribution, Shapes, floors_of
from prunekit.pruning.scores import sizes_of
from prunekit.pruning.selection import keep_count, top_masks_global


class Global(Distribution):
    """The highest scores of all tensors together; ties by tensor name, then index."""

    name: Literal["global"] = "global"
    normalize: bool = False
    """Divide each tensor's scores by their L2 norm + 1e-8 first, as jaxpruner does: scores that
    depend on the scale of a layer become comparable. Costs a second copy of the scores."""

    def keep_counts(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, int]:
        """See `Distribution`."""
        masks = self.select(scores, sparsity, min_keep, shapes=shapes)
        return {name: int(mask.sum()) for name, mask in masks.items()}

    def select(
        self,
        scores: Mapping[str, Tensor],
        sparsity: float,
        min_keep: int = 0,
        *,
        shapes: Shapes | None = None,
    ) -> dict[str, Tensor]:
        """See `Distribution`; one search finds counts and masks."""
        sizes = sizes_of(scores)
        floors = floors_of(sizes, min_keep)
        keep = keep_count(sum(sizes.values()), sparsity, sum(floors.values()))
        if self.normalize:
            scores = {name: _normalized(score) for name, score in scores.items()}
        return top_masks_global(scores, keep, floors)


def _normalized(score: Tensor) -> Tensor:
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    # -inf marks units that may not come back: it has no part in the norm
    finite = torch.nan_to_num(score, nan=float("nan"), posinf=0.0, neginf=0.0)
    scaled: Tensor = score / (torch.linalg.vector_norm(finite) + 1e-8)
    return scaled
