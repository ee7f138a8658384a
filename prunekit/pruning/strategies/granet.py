"""GraNet: a density that falls by magnitude, while pruned connections come back by gradient."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from prunekit.foundation.timeline import Clock, duration
from prunekit.foundation.values import name_only
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import ERK, Demand
from prunekit.pruning.schedules import AnySchedule, Polynomial
from prunekit.pruning.scores import count_each
from prunekit.pruning.selection import top_masks
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.drop_and_grow import drop_and_grow, noise
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures import Unstructured


class GraNet(ScoredStrategy):
    """Prune gradually by |w| over all layers; then, in each, swap the weakest for the most wanted.

    The sparsity rises from `start_sparsity` by the schedule (cubic). At each update the active
    weights with the smallest |w| go, ranked globally; of the a weights that a tensor has left the
    floor(f(t) a) smallest are dropped too, and as many with the largest |g| come in, g = dL/d(W*M)
    of every entry (zero-cost neuroregeneration, algorithm 1). f falls along half a cosine from
    `drop_fraction` to 0 at `cadence.stop`. What comes in starts at 0, without optimizer state.

    At first each tensor keeps a random choice, its count by ERK, at `start_sparsity` (the paper's
    sparse-to-sparse form); 0 begins dense.
    """

    class Config(ScoredStrategy.Config):
        """Settings of GraNet."""

        name: Literal["granet"]
        start_sparsity: float = Field(default=0.5, ge=0, lt=1)
        """Sparsity of the random mask of the first step, at most `sparsity`."""
        drop_fraction: float = Field(default=0.5, gt=0, le=1)
        """Share of the active weights that the first update swaps, (0, 1]."""
        schedule: AnySchedule = Polynomial(name="cubic", stop=duration("50%"))
        """How the sparsity rises from `start_sparsity` to `sparsity`."""
        cadence: Cadence = Cadence(every=duration("2%"), stop=duration("75%"))
        """At which steps masks change; at its stop, and after, nothing is swapped."""
        structure: Annotated[Unstructured, BeforeValidator(name_only)] = Unstructured(
            name="unstructured"
        )
        """Single weights: others are not swapped."""
        regrow: Literal[False] = False
        """By magnitude nothing comes back; growth is by gradient."""

        @model_validator(mode="after")
        def _starts_below_its_end(self) -> Self:
            if self.start_sparsity > self.sparsity:
                raise ValueError(
                    f"start_sparsity {self.start_sparsity} is more than sparsity {self.sparsity}: "
                    "the density falls"
                )
            return self

    config: GraNet.Config
    paper = "arXiv:2106.10404 algorithm 1"
    reads = "gradients"
    modes = ("hard",)
    needs_learning = "always"  # what is grown starts at 0, and stays there where nothing learns

    def asked(self, clock: Clock) -> float:
        """From the start's sparsity to the whole, by the schedule."""
        begin, share = self.config.start_sparsity, self.config.schedule.at(clock)
        return begin + (self.config.sparsity - begin) * share

    def swapped(self, clock: Clock) -> float:
        """f(t): half a cosine from `drop_fraction` down to 0 at the cadence's stop."""
        steps = clock.active_steps
        stop = min(steps, self.config.cadence.stop.steps(steps, clock.steps_per_epoch))
        if clock.active_step >= stop or clock.step + 1 >= clock.total_steps:
            return 0.0  # what comes in must be trained
        return self.config.drop_fraction / 2 * (1 + math.cos(math.pi * clock.active_step / stop))

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w|."""
        return ctx.weights[name].abs()

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """A random choice at first; then prune, drop and grow."""
        weights = ctx.weights
        if ctx.clock.active_step == 0:
            demand = Demand(weights, self.target(ctx.clock), self.config.min_keep)
            keep = ERK(name="erk").keep_counts(demand)
            return Update(top_masks((n, noise(n, ctx), keep[n]) for n in weights))
        masks, share = super().update(ctx).masks, Fraction(repr(self.swapped(ctx.clock)))
        left = dict(zip(weights, count_each([masks[name] for name in weights]), strict=True))
        moved = {name: int(share * count) for name, count in left.items()}
        return Update(
            drop_and_grow(weights, masks, lambda name: ctx.grads[name].abs(), left, moved)
        )
