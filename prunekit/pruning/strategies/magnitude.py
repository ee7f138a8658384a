"""Persistent dynamic magnitude pruning."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.pruning.scores import Scores
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.registry.configs import Mode


class Magnitude(ScoredStrategy):
    """Keep the weights with the largest |w|, chosen anew from the dense weights at each update.

    tau_t = the floor(s_t N + 1/2)-th smallest |W| over the scope, M_t = 1[|W| > tau_t], with ties
    broken by index so that the count is exact; s_t follows the schedule (cubic by default).
    In `ste` (the default) the gradient at W*M moves the whole dense W, as in DPF, so a pruned
    weight can grow and come back; `hard` and `regrow: false` give gradual pruning (Zhu & Gupta).

    The paper does not say how gradients reach pruned weights, nor the schedule: `ste` and cubic are
    our reading of it. Its masks are refreshed until the end of training (*persistent*).
    """

    class Config(ScoredStrategy.Config):
        """Settings of magnitude pruning."""

        name: Literal["magnitude"]
        mode: Mode = "ste"
        """As for every strategy; in `ste` pruned weights go on learning."""

    paper = "arXiv:2407.16716 eq. 9-13; arXiv:1710.01878 (cubic schedule); arXiv:2006.07253 (DPF)"

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w|."""
        return ctx.weights[name].abs()

    def scores(self, ctx: Context) -> Scores:
        """|w| of the scope, made from the weights as it is ranked."""
        if type(self).score is not Magnitude.score:  # a subclass that scores otherwise
            return super().scores(ctx)
        return Scores({n: self.of_kind(n, w, ctx) for n, w in ctx.weights.items()}, key=torch.abs)
