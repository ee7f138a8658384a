"""RigL: drop the smallest, grow where the gradient is largest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from pydantic import field_validator
from torch import Tensor

from prunekit.foundation.timeline import Clock
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.drop_and_grow import DropAndGrow, EarlyCadence


class RigL(DropAndGrow):
    """Drop the weights with the smallest |w|, and grow those with the largest |g|.

    f(t) = alpha/2 (1 + cos(pi t / T_end)), from alpha = `drop_fraction` down to 0 at T_end =
    `cadence.stop`; growth is |dL/d(W*M)|, dense: the backward pass has it anyway, as masks are
    beside the model. It is the gradient of the whole batch, over micro-batches and ranks. A step
    at which weights move is no optimizer step, as in the authors' code. Everything else is
    `DropAndGrow`; the random start is drawn before the first step, and no weight moves in it.

    What differs from the paper: `uniform` prunes the first layer too; leave it out by the scope.
    """

    class Config(DropAndGrow.Config):
        """Settings of RigL."""

        name: Literal["rigl"]

        @field_validator("cadence")
        @classmethod
        def _not_by_phase(cls, cadence: EarlyCadence) -> EarlyCadence:
            if cadence.every == "phase":
                raise ValueError(
                    "every: phase is between two steps, but growth needs the gradient inside one: "
                    "write an interval, as 100st"
                )
            return cadence

    config: RigL.Config
    paper = "arXiv:1911.11134"
    reads = "gradients"

    def drop_fraction(self, clock: Clock) -> float:
        """Alpha along a half cosine."""
        done = clock.active_step / self.stop(clock)
        return self.config.drop_fraction / 2 * (1 + math.cos(math.pi * done))

    def growth(self, name: str, ctx: Context) -> Tensor:
        """|g|."""
        return ctx.grads[name].abs()

    def update(self, ctx: Context) -> Update:
        """Drop and grow instead of an optimizer step."""
        return replace(super().update(ctx), skip_step=True)
