"""Alternating compressed and decompressed training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, field_validator

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.pruning.distributions import AnyDistribution, Demand, Global
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.registry.configs import StrategyConfig


class ACDC(PruningStrategy):
    """Train dense and sparse in turn, and end sparse: a dense and a sparse model in one run.

    Dense at first; at each of `switches` the masks change, to compressed at the first, third, ..,
    and back at the second, fourth, .. Compressing keeps the (1 - s) N largest |w| of the scope, N
    weights, exact, ties by index; until the next switch the mask is fixed. Decompressing keeps all:
    pruned weights start again from 0, and the optimizer forgets its state of the scope. So the
    sparsity is 0 or s at any time, and s at the end.

    What differs from the paper: its code forgets the momentum of all parameters there; here biases
    and norms go on with theirs. The default switches are its CIFAR-100 run of 200 epochs:
    compressed from 10, 50, 90, 130 and 170, dense from 30, 70, 110 and 150. Its ImageNet run of 100
    epochs has them at 10, 15, 20, .. 75, 85.
    """

    class Config(StrategyConfig):
        """Settings of AC/DC."""

        name: Literal["ac_dc"]
        sparsity: float = Field(ge=0, lt=1)
        """Fraction of the weights in scope that is pruned while compressed, [0, 1)."""
        switches: tuple[Duration, ...] = tuple(duration(f"{at}%") for at in range(5, 90, 10))
        """When compressed and dense training change places; `%` of the strategy's window. An odd
        number of them, so that it ends compressed."""
        distribution: AnyDistribution = Global(name="global")
        """How the total is split over the tensors."""
        min_keep: int = Field(default=0, ge=0)
        """Weights that each tensor keeps, whatever the sparsity says."""

        @field_validator("switches")
        @classmethod
        def _ends_compressed(cls, switches: tuple[Duration, ...]) -> tuple[Duration, ...]:
            if len(switches) % 2 == 0:
                raise ValueError(
                    f"{len(switches)} switches end dense: give an odd number, the first compresses"
                )
            return switches

    config: ACDC.Config
    paper = "arXiv:2106.12379"
    needs_steps = True
    modes = ("hard",)

    def check(self, clock: Clock) -> None:
        """The switches must come in order, each at a step of its own, within the window."""
        steps = self.steps(clock)
        if any(b <= a for a, b in pairwise((*steps, clock.active_steps))):
            raise RecipeError(
                f"strategy ac_dc: the switches are at steps {', '.join(map(str, steps))} of "
                f"{clock.active_steps}: give them in order, at least a step apart and a step before"
                " the end"
            )

    def steps(self, clock: Clock) -> list[int]:
        """The switches in active steps."""
        switches = self.config.switches
        return [at.steps(clock.active_steps, clock.steps_per_epoch) for at in switches]

    def due(self, clock: Clock) -> bool:
        """At the switches."""
        return clock.active_step in self.steps(clock)

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The switches."""
        return (self.steps(clock),)

    def target(self, clock: Clock) -> float:
        """0 while dense, the sparsity while compressed."""
        compressed = bisect_right(self.steps(clock), clock.active_step) % 2 == 1
        return self.config.sparsity if compressed else 0.0

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """The exact count, unless `min_keep` may raise it."""
        return None if self.config.min_keep else super().promised_keep(clock, total)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """Compress or decompress."""
        config, target = self.config, self.target(ctx.clock)
        scores = {name: weight.abs() for name, weight in ctx.weights.items()}
        masks = config.distribution.select(Demand(scores, target, config.min_keep))
        return Update(masks, restart=target == 0)
