"""One ranking of all units, whatever tensor they are in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.pruning.distributions.base import Demand, Distribution
from prunekit.pruning.scores import count_each
from prunekit.pruning.selection import top_masks_global


class Global(Distribution):
    """The highest scores of all tensors together; ties by tensor name, then index."""

    name: Literal["global"] = "global"
    normalize: bool = False
    """Divide each tensor's scores by their L2 norm + 1e-8 first, as jaxpruner does: scores that
    depend on the scale of a layer become comparable. Costs a second copy of the scores."""

    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """See `Distribution`."""
        masks = self.select(demand)
        return dict(zip(masks, count_each(masks.values()), strict=True))

    def select(self, demand: Demand) -> dict[str, Tensor]:
        """See `Distribution`; one search finds counts and masks."""
        scores = demand.scores
        if self.normalize:
            scores = {name: _normalized(score) for name, score in scores.items()}
        return top_masks_global(scores, demand.keep, demand.floors)


def _normalized(score: Tensor) -> Tensor:
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    # -inf marks units that may not come back: it has no part in the norm
    finite = torch.nan_to_num(score, nan=float("nan"), posinf=0.0, neginf=0.0)
    scaled: Tensor = score / (torch.linalg.vector_norm(finite) + 1e-8)
    return scaled
