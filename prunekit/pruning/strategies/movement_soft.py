"""Soft movement pruning: keep the weights whose score stays above a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit.foundation.timeline import Clock
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.schedules import AnySchedule
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.movement import EVERY_STEP, FROM_10_TO_80, MovingScores
from prunekit.registry.configs import Mode, StrategyConfig


class MovementSoft(MovingScores):
    """Keep the weights with sigmoid(S) > tau_t: the sparsity emerges, in each layer its own.

    S moves as in `movement`, and a penalty lambda_t * sum of sigmoid(S) pulls it down:
    S -= lr (g w + lambda_t sigmoid'(S)), lr = lr_scores * the part that the learning rate's curve
    leaves. A weight stays where moving it away from zero gains more than lambda. Threshold and
    penalty warm up together, tau_t = tau * share and lambda_t = lambda * share of the schedule, as
    in the authors' code; S = 0 is kept (tau < 1/2), so before the scores move nothing is pruned.

    Differs from the authors' code: the penalty is the sum, not the mean, and S moves by plain
    gradient descent, not Adam. With the mean the pull on a weight would fall with their number,
    which Adam makes up for. So lambda is to be compared with g w, and depends on model and data.
    Nor is anything kept in any case: the code leaves 0.5 % of each tensor, here one may be emptied.
    """

    class Config(StrategyConfig):
        """Settings of soft movement pruning."""

        name: Literal["movement_soft"]
        mode: Mode = "masked"
        """`masked` only: the score of a pruned weight needs its value."""
        tau: float = Field(default=0.1, gt=0, lt=0.5)
        """Threshold of sigmoid(S) at the end, (0, 0.5)."""
        lambda_scores: float = Field(default=2e-3, ge=0)
        """Weight of the penalty at the end: more gives a higher sparsity."""
        lr_scores: float = Field(default=100.0, gt=0)
        """Learning rate of S: how soon a score crosses the threshold."""
        schedule: AnySchedule = FROM_10_TO_80
        """How much of threshold and penalty is in force when."""
        cadence: Cadence = EVERY_STEP
        """At which steps the masks change."""

    config: MovementSoft.Config
    paper = "arXiv:2005.07683"

    def check(self, clock: Clock) -> None:
        """The schedule must reach its end within the strategy's window."""
        self.config.schedule.check(clock.active_steps, clock.steps_per_epoch)
        self.config.cadence.check(clock.active_steps, clock.steps_per_epoch)

    def adjust_gradients(self, ctx: Context) -> None:
        """Move the scores; the gradients stay as they are."""
        share = self.config.schedule.at(ctx.clock)
        self.descend(ctx, self.config.lr_scores, self.config.lambda_scores * share)

    def due(self, clock: Clock) -> bool:
        """At the cadence's steps, and where the schedule begins, jumps or ends."""
        config = self.config
        return config.cadence.fires(clock) or clock.active_step in config.schedule.marks(clock)

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The cadence's steps, and the marks of the schedule."""
        return *self.config.cadence.moments(clock), sorted(self.config.schedule.marks(clock))

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """Compare with the threshold; what has no score yet is kept."""
        tau = self.config.tau * self.config.schedule.at(ctx.clock)
        return Update({name: score.sigmoid() > tau for name, score in self.moved.items()})
