"""A random sub-network, drawn once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.foundation.transfer import send
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import AnyDistribution, Uniform
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy


class RandomSubnetwork(ScoredStrategy):
    """Prune at random before training, and keep that mask: the baseline of every comparison.

    Scores are uniform in [0, 1) from a generator of (seed, place, step). `uniform` prunes the same
    share of each tensor, `global` draws from one pool, `match` takes the number kept in each tensor
    from another run's mask, so that only *which* weights are kept differs.
    """

    class Config(ScoredStrategy.Config):
        """Settings of a random sub-network."""

        name: Literal["random_subnetwork"]
        schedule: AnySchedule = Constant(name="constant")
        cadence: Cadence = Cadence(every="once")
        distribution: AnyDistribution = Uniform(name="uniform")

    paper = "arXiv:2407.16716 section 4"
    modes = ("hard", "masked")

    def score(self, name: str, ctx: Context) -> Tensor:
        """Uniform noise; the generator goes through the tensors in the order of the scope."""
        weight = ctx.weights[name]
        return send(torch.rand(weight.shape, generator=ctx.generator), weight.device)
