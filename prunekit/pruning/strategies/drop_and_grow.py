"""What SET and RigL share: a random start, then weights that move from place to place."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.transfer import send
from prunekit.foundation.values import OldDefault
from prunekit.pruning.cadence import Cadence, Every
from prunekit.pruning.distributions import ERK, Demand, FixedDistribution
from prunekit.pruning.selection import top_masks
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.registry.configs import StrategyConfig


class EarlyCadence(Cadence):
    """As `Cadence`, but by default it fires seldom and stops at 75 %."""

    every: Annotated[Every, OldDefault(2, "100st")] = duration("5%")
    """The interval, `%` of the strategy's window, a step at least; or `phase`, or `once`. What
    grows must be trained before it is judged, so there are fewer moves than masks of a ramp."""
    stop: Duration = duration("75%")
    """T_end; `%` of the strategy's window. The last update lies before it."""


class DropAndGrow(PruningStrategy):
    """Train at the full sparsity from the first step, and move weights to better places.

    First each tensor keeps a random choice of its a = `keep_counts` entries. At an update at step t
    of the window, with k = floor(f(t) a), the a - k active entries with the largest |w| are
    retained, and the k entries outside of them with the highest `growth` come in; ties by index.
    So the count of a tensor never changes. An entry that was inactive starts at 0, and with no
    optimizer state; one that was dropped and grown at once is as it was.

    The last update lies before `cadence.stop`: what is grown last must be trained. A subclass gives
    `drop_fraction` f and `growth`.
    """

    class Config(StrategyConfig):
        """Settings of a strategy that drops and grows."""

        sparsity: float = Field(ge=0, lt=1)
        """Fraction of the weights in scope that is pruned, from the first step on, [0, 1)."""
        distribution: FixedDistribution = ERK(name="erk")
        """How the total is split over the tensors, for good."""
        min_keep: int = Field(default=0, ge=0)
        """Weights that each tensor keeps, whatever the sparsity says."""
        cadence: EarlyCadence = EarlyCadence()
        """At which steps weights move."""
        drop_fraction: float = Field(default=0.3, gt=0, le=1)
        """Share of the active weights of each tensor that an update drops, (0, 1]."""

    config: DropAndGrow.Config
    modes = ("hard",)
    needs_learning = "always"  # what is grown starts at 0, and stays there where nothing learns

    @abc.abstractmethod
    def drop_fraction(self, clock: Clock) -> float:
        """f(t): share of the active weights that an update at `clock` drops, [0, 1]."""

    @abc.abstractmethod
    def growth(self, name: str, ctx: Context) -> Tensor:
        """How much each entry of a tensor should grow, in its shape; the highest come first."""

    def check(self, clock: Clock) -> None:
        """The interval must be a step or more."""
        self.config.cadence.check(clock.active_steps, clock.steps_per_epoch)

    def stop(self, clock: Clock) -> int:
        """T_end: the active step from which on the masks are fixed."""
        stop = self.config.cadence.stop.steps(clock.active_steps, clock.steps_per_epoch)
        return min(stop, clock.active_steps)

    def due(self, clock: Clock) -> bool:
        """At the start of the window, and at the cadence's steps before its stop.

        An optimizer step must follow: what is grown starts at 0, and would stay there.
        """
        step = clock.active_step
        taken = clock.step + int(self.reads == "gradients")  # then the update takes a step's place
        trained = step < self.stop(clock) and taken < clock.total_steps
        return step == 0 or (trained and self.config.cadence.fires(clock))

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The first step, and the cadence's."""
        return (0,), *self.config.cadence.moments(clock)

    def target(self, clock: Clock) -> float:
        """The sparsity, always."""
        return self.config.sparsity

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """The exact count, unless `min_keep` may raise it."""
        return None if self.config.min_keep else super().promised_keep(clock, total)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """A random choice at first; then drop and grow."""
        config, weights = self.config, ctx.weights
        demand = Demand(weights, config.sparsity, config.min_keep)
        keep = config.distribution.keep_counts(demand)
        if ctx.clock.active_step == 0:
            return Update(top_masks((n, noise(n, ctx), keep[n]) for n in weights))
        share, masks = Fraction(repr(self.drop_fraction(ctx.clock))), ctx.masks
        moved = {name: int(share * keep[name]) for name in weights}
        return Update(
            drop_and_grow(weights, masks, lambda name: self.growth(name, ctx), keep, moved)
        )


def drop_and_grow(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    growth: Callable[[str], Tensor],
    keep: Mapping[str, int],
    moved: Mapping[str, int],
) -> dict[str, Tensor]:
    """The next mask of each tensor, with exactly `keep` True.

    Args:
        weights: any shapes.
        masks: bool, True = active now.
        growth: name -> score of each entry; the highest outside of what is retained come in.
        keep: entries to keep.
        moved: how many of them are chosen by `growth`, in 0 .. keep.
    """
    never = float("-inf")
    retained = top_masks(
        (n, weight.abs().masked_fill(~masks[n], never), keep[n] - moved[n])
        for n, weight in weights.items()
    )
    grown = top_masks((n, growth(n).masked_fill(retained[n], never), moved[n]) for n in weights)
    return {name: mask.logical_or_(grown[name]) for name, mask in retained.items()}


def noise(name: str, ctx: Context) -> Tensor:
    """Uniform in [0, 1), in the shape of a weight; the next draw of the generator."""
    weight = ctx.weights[name]
    return send(torch.rand(weight.shape, generator=ctx.generator), weight.device)
