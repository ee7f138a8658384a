"""Top-KAST: forward through the largest weights, while a somewhat larger set learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.values import name_only
from prunekit.pruning.distributions import AnyDistribution, Demand, Uniform
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures import Unstructured
from prunekit.registry.configs import Mode


class TopKAST(ScoredStrategy):
    """Forward: the D N largest |w| of each tensor, the set A. Learning: the (D + M) N largest, B.

    The rest of the dense W is still: no gradient, momentum or decay reaches it, and it has no
    optimizer state. A and B are chosen anew at the cadence's steps; an entry that comes into B
    starts without optimizer state. So that others get their turn, B is pulled to zero: lambda |w|
    on A and lambda |w| / D on B without A (exploration regularisation), here in the gradient.

    D = 1 - `sparsity`, D + M = 1 - `backward_sparsity`. Only the mask is sparse here: gradients
    and W are dense tensors in memory, which the paper's own are not.
    """

    class Config(ScoredStrategy.Config):
        """Settings of Top-KAST."""

        name: Literal["top_kast"]
        mode: Mode = "ste"
        """`ste` only: what is not in the forward set lives on in the dense W."""
        backward_sparsity: float = Field(default=0.5, ge=0, lt=1)
        """Fraction of the weights in scope that is still, [0, 1): at most `sparsity`."""
        lambda_w: float = Field(default=1e-4, ge=0)
        """Weight of the regularisation."""
        norm: Literal["l1", "l2"] = "l1"
        """Of the regularisation: lambda |w|, or lambda w^2 / 2."""
        explore: Duration = duration("100%")
        """Until when B is larger than A; from then on only the forward set learns."""
        schedule: AnySchedule = Constant(name="constant")
        """How much of both sparsities is in force when."""
        distribution: AnyDistribution = Uniform(name="uniform")
        """How the total is split over the tensors."""
        regrow: Literal[True] = True
        """The forward set is chosen anew of all weights."""
        structure: Annotated[Unstructured, BeforeValidator(name_only)] = Unstructured(
            name="unstructured"
        )
        """Single weights."""

        @model_validator(mode="after")
        def _learns_what_it_uses(self) -> Self:
            if self.backward_sparsity > self.sparsity:
                raise ValueError(
                    f"backward_sparsity {self.backward_sparsity} is more than sparsity "
                    f"{self.sparsity}: what is used must learn, so set it to at most that"
                )
            return self

    config: TopKAST.Config
    paper = "arXiv:2106.03517"
    modes = ("ste",)
    needs_steps = True

    def check(self, clock: Clock) -> None:
        """Exploration must end within the window."""
        super().check(clock)
        if self._explores_until(clock) > clock.active_steps:
            raise RecipeError(
                f"strategy top_kast: explore {self.config.explore} is after the "
                f"{clock.active_steps} steps of its window"
            )

    def _explores_until(self, clock: Clock) -> int:
        return self.config.explore.steps(clock.active_steps, clock.steps_per_epoch)

    def due(self, clock: Clock) -> bool:
        """At the cadence's steps, and where exploration ends."""
        return super().due(clock) or clock.active_step == self._explores_until(clock)

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The cadence's steps, the marks of the schedule, and the end of exploration."""
        return *(super().moments(clock) or ()), (self._explores_until(clock),)

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w| of the dense weights."""
        return ctx.weights[name].abs()

    @torch.no_grad()
    def adjust_gradients(self, ctx: Context) -> None:
        """Add the regularisation; of what is still, the gradient is zeroed after this."""
        density, masks, weights = 1 - self.asked(ctx.clock), ctx.masks, ctx.weights
        for name, grad in ctx.grads.items():
            pull = weights[name].sign() if self.config.norm == "l1" else weights[name]
            grad.add_(torch.where(masks[name], pull, pull / density), alpha=self.config.lambda_w)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """The forward set, and the larger one that learns."""
        update = super().update(ctx)
        if ctx.clock.active_step >= self._explores_until(ctx.clock):
            return replace(update, moving=update.masks)
        wide = self.config.backward_sparsity * self.config.schedule.at(ctx.clock)
        demand = Demand(self.scores(ctx), wide, self.config.min_keep, finite=True)
        return replace(update, moving=self.select(ctx, demand, update.finite))
