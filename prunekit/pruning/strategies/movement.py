"""Movement pruning: keep the weights that training moves away from zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from prunekit.errors import UsageError
from prunekit.foundation.timeline import Clock, duration
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import AnyDistribution, Uniform
from prunekit.pruning.schedules import AnySchedule, Polynomial
from prunekit.pruning.strategies.base import Context, PruningStrategy
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.registry.configs import Mode, StrategyConfig

FROM_10_TO_80 = Polynomial(name="cubic", start=duration("10%"), stop=duration("80%"))
"""Warm-up, ramp, cool-down: the authors' example has 5,400, 39,000 and 10,800 of 55,200 steps."""
EVERY_STEP = Cadence(every=duration("1st"))


class MovingScores(PruningStrategy):
    """A score S for each weight, 0 at first, that gradient descent moves at every step."""

    needs_learning = "once"
    modes = ("masked",)  # elsewhere a pruned weight has no value of its own, or learns unseen

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__(config)
        self.moved: dict[str, Tensor] = {}

    @torch.no_grad()
    def descend(self, ctx: Context, lr: float, pull: float = 0.0) -> None:
        """S -= lr (g w + pull sigmoid'(S)): g w is dL/dS with the mask passed straight through.

        The lr of a tensor follows the curve of its own learning rate.
        """
        for name, grad in ctx.grads.items():
            old = self.moved[name].to(grad) if name in self.moved else torch.zeros_like(grad)
            if old.shape != grad.shape:
                raise UsageError(
                    f"{name}: its movement scores have shape {tuple(old.shape)}, the weight has "
                    f"{tuple(grad.shape)}: the state that was loaded is of another model"
                )
            slope = grad * ctx.weights[name]
            if pull:
                share = old.sigmoid()
                slope += pull * (share - share * share)
            self.moved[name] = old.sub_(slope, alpha=lr * ctx.lr_scale_of(name))

    def state_dict(self) -> dict[str, Any]:
        """S of each weight."""
        return {"scores": {name: score.clone() for name, score in self.moved.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take S back."""
        self.moved = {name: score.clone() for name, score in state["scores"].items()}


class Movement(MovingScores, ScoredStrategy):
    """Keep the weights that move away from zero: the highest S = - sum over steps of lr g w.

    g = dL/d(W*M), also of pruned entries; g w is then the gradient of the loss with respect to a
    mask that is passed straight through, so S [shape of W] is a score that gradient descent moves
    from 0 on. lr is the part of the learning rate that its curve leaves. W itself learns where it
    is kept; a pruned value waits on the shelf of mode `masked`, and may come back.

    Differs from the authors' code: there the mask is a factor of the forward pass alone, so that
    momentum and weight decay go on moving pruned values; here they wait unchanged.

    S moves by plain gradient descent, as in section 4 of the paper; its experiments use Adam. So a
    learning rate of S would scale all scores alike and change no mask: there is none. Scores
    differ in size between layers: `uniform`, as in the authors' code, is the default. At step 0
    all scores are equal: whatever the schedule says, nothing is pruned before step 1.
    """

    class Config(ScoredStrategy.Config):
        """Settings of movement pruning."""

        name: Literal["movement"]
        mode: Mode = "masked"
        """`masked` only: the score of a pruned weight needs its value."""
        schedule: AnySchedule = FROM_10_TO_80
        cadence: Cadence = EVERY_STEP
        distribution: AnyDistribution = Uniform(name="uniform")

    config: Movement.Config
    paper = "arXiv:2005.07683"

    def adjust_gradients(self, ctx: Context) -> None:
        """Move the scores; the gradients stay as they are."""
        self.descend(ctx, 1.0)

    def due(self, clock: Clock) -> bool:
        """As any score, and at step 1, when the scores have moved first."""
        return clock.active_step == 1 or super().due(clock)

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """As any score, and step 1."""
        return *(super().moments(clock) or ()), (1,)

    def asked(self, clock: Clock) -> float:
        """Sparsity now; 0 as long as all scores are equal."""
        return super().asked(clock) if clock.active_step else 0.0

    def score(self, name: str, ctx: Context) -> Tensor:
        """S."""
        return self.moved.get(name, torch.zeros_like(ctx.weights[name]))
