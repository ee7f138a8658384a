"""Whole filters, by the size of their weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import AnyDistribution, Uniform
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures import AnyStructure, Channel


class FilterMagnitude(ScoredStrategy):
    """Prune the output channels whose weights are smallest: by sum over the filter of |w|.

    A unit is a row of W [out, ..]: a filter of a convolution, a neuron of a linear layer, with its
    bias and BatchNorm entries. Inside a layer the order is that of the L1 norm (`norm: l2` of the
    structure: of the L2 norm), and each layer loses the same share. Pruned once, at the first step
    of its window: put a dense phase before it and name the later one in `during`.

    Differs from the paper: it leaves the layers that it finds sensitive alone by hand (here:
    `scope.exclude`, which must also name the classifier, whose rows are classes), and takes the
    channels out of the model with the next layer's inputs; here they stay as exact zeros.
    """

    class Config(ScoredStrategy.Config):
        """Settings of filter pruning."""

        name: Literal["filter_magnitude"]
        structure: AnyStructure = Channel(name="channel", norm="l1")
        schedule: AnySchedule = Constant(name="constant")
        cadence: Cadence = Cadence(every="once")
        distribution: AnyDistribution = Uniform(name="uniform")

    paper = "arXiv:1608.08710"
    modes = ("hard", "masked")

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w|; the structure pools it."""
        return ctx.weights[name].abs()
