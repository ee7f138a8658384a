"""Whole filters, by their distance to the others: what the rest can stand in for goes first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import AnyDistribution, Uniform
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures import AnyStructure, Channel


class FPGM(ScoredStrategy):
    """Prune the output channels nearest the geometric median of their layer.

    The geometric median of the rows W_j of W [out, ..] is the x with the smallest sum over j of
    |x - W_j|_2; a filter scores that sum at its own place (eq. 4), and those with the lowest scores
    go. So a small filter stays where it is like no other, and of two that are alike one may go
    however large they are. Pruned once, at the first step of its window, the same share of each
    layer: put a dense phase before it and name the later one in `during`.

    Differs from the paper: there filters are set to zero after each epoch and go on learning; for
    that write `mode: ste` and a cadence. Its mixture with a norm criterion is two strategies.
    """

    class Config(ScoredStrategy.Config):
        """Settings of FPGM."""

        name: Literal["fpgm"]
        structure: AnyStructure = Channel(name="channel", norm="l1")
        schedule: AnySchedule = Constant(name="constant")
        cadence: Cadence = Cadence(every="once")
        distribution: AnyDistribution = Uniform(name="uniform")

    paper = "arXiv:1811.00250 eq. 4"
    modes = ("hard", "masked", "ste")

    def score(self, name: str, ctx: Context) -> Tensor:
        """The sum of the distances of a row to all rows, at each of its entries; [shape of W]."""
        weight = ctx.weights[name]
        rows = weight.flatten(1) if weight.ndim > 1 else weight.unsqueeze(1)
        # by differences: products of large equal rows would leave a distance that is only rounding
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        return apart.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight)
