"""Layer-adaptive magnitude pruning."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.foundation.devices import as_float64
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy


class Lamp(ScoredStrategy):
    """Magnitude pruning whose layers compare: w^2 over the sum of all squares not smaller.

    Within each tensor score(u) = w_u^2 / sum over v with |w_v| >= |w_u| of w_v^2; of equal weights
    the one with the lower index counts as larger. The scores are ranked globally. The largest of
    each tensor scores 1, so no tensor loses its last weight before every other is down to one; a
    bound on the distortion of the output gives the layers their sparsities, with nothing to tune.

    In float64, as squares of small float32 weights underflow. In a tensor of zeros only, where the
    public code divides 0 by 0, the first entry scores 1 and the others 0. The paper prunes a
    trained model in rounds and retrains; here the schedule says when, as for `magnitude`, and
    already pruned weights of `hard` are zeros that score 0 and change no other score.
    """

    class Config(ScoredStrategy.Config):
        """Settings of LAMP."""

        name: Literal["lamp"]

    paper = "arXiv:2010.07611"

    def score(self, name: str, ctx: Context) -> Tensor:
        """w^2 over the running sum of squares from the largest down, float64 in (0, 1]."""
        square = as_float64(ctx.weights[name]).square().flatten()
        falling, order = square.sort(descending=True, stable=True)
        share = falling / falling.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
        share[:1] = 1.0
        score = torch.empty_like(share)
        score[order] = share
        return score.view_as(ctx.weights[name])
