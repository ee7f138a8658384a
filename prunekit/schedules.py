"""How much of the final sparsity is pruned when. Imports no torch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from prunekit.clock import Clock
from prunekit.duration import Duration, duration
from prunekit.errors import RecipeError
from prunekit.frozen import Frozen, name_only

Progress = float | Fraction
"""Part of a ramp that is done, in [0, 1]."""


class Schedule(Frozen):
    """The share of the final sparsity, in [0, 1], as a function of the clock; never falls."""

    name: str

    def at(self, clock: Clock) -> float:
        """The share at `clock.active_step`, also outside the ramp."""
        raise NotImplementedError

    def marks(self, clock: Clock) -> frozenset[int]:
        """Active steps at which the share begins, jumps or ends: there masks must be updated."""
        raise NotImplementedError

    def check(self, active_steps: int, steps_per_epoch: int) -> None:
        """Raise if the share does not reach 1 within the window.

        Args:
            active_steps: optimizer steps of the strategy's window.
            steps_per_epoch: optimizer steps that `1ep` stands for.

        Raises:
            RecipeError: the schedule does not fit the window.
        """
        return


class Constant(Schedule):
    """The whole target from the first step on."""

    name: Literal["constant"] = "constant"

    def at(self, clock: Clock) -> float:
        """1, always."""
        return 1.0

    def marks(self, clock: Clock) -> frozenset[int]:
        """The first step."""
        return frozenset({0})


class Ramp(Schedule):
    """A rise from 0 at `start` to 1 at `stop`; equal ends make a jump."""

    start: Duration = duration("0%")
    """Where the share begins to rise; `%` of the strategy's window."""
    stop: Duration = duration("100%")
    """Where the share is 1."""

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> Ramp:
        if self.start.unit == self.stop.unit and self.start.amount > self.stop.amount:
            raise ValueError(f"start {self.start} lies after stop {self.stop}")
        return self

    def share(self, progress: Progress) -> float:
        """The share at `progress` of the ramp; 0 at 0, 1 at 1, never falling."""
        raise NotImplementedError

    def ends(self, active_steps: int, steps_per_epoch: int) -> tuple[int, int]:
        """The active steps of start and stop."""
        start = self.start.steps(active_steps, steps_per_epoch)
        return start, max(start, self.stop.steps(active_steps, steps_per_epoch))

    def at(self, clock: Clock) -> float:
        """0 before start, 1 from stop on, `share` in between."""
        start, stop = self.ends(clock.active_steps, clock.steps_per_epoch)
        if clock.active_step >= stop:
            return 1.0
        if clock.active_step < start:
            return 0.0
        return min(1.0, max(0.0, self.share(Fraction(clock.active_step - start, stop - start))))

    def marks(self, clock: Clock) -> frozenset[int]:
        """Start and stop."""
        return frozenset(self.ends(clock.active_steps, clock.steps_per_epoch))

    def check(self, active_steps: int, steps_per_epoch: int) -> None:
        """Raise if start lies after stop, or stop after the window.

        Raises:
            RecipeError: as said.
        """
        start = self.start.steps(active_steps, steps_per_epoch)
        stop = self.stop.steps(active_steps, steps_per_epoch)
        if start > stop:
            raise RecipeError(
                f"schedule {self.name!r}: start {self.start} is step {start}, after stop "
                f"{self.stop}, step {stop}: give start and stop in the same unit"
            )
        if stop > active_steps:
            raise RecipeError(
                f"schedule {self.name!r}: stop {self.stop} is step {stop}, but the strategy works "
                f"for {active_steps} steps: the target is never reached; lower stop"
            )


class OneShot(Schedule):
    """Nothing, then everything at `start`."""

    name: Literal["one_shot"] = "one_shot"
    start: Duration = duration("0%")
    """Where the share jumps from 0 to 1."""

    def at(self, clock: Clock) -> float:
        """0 before start, then 1."""
        return float(
            clock.active_step >= self.start.steps(clock.active_steps, clock.steps_per_epoch)
        )

    def marks(self, clock: Clock) -> frozenset[int]:
        """The jump."""
        return frozenset({self.start.steps(clock.active_steps, clock.steps_per_epoch)})


class Linear(Ramp):
    """`u`: the same share in each step."""

    name: Literal["linear"] = "linear"

    def share(self, progress: Progress) -> float:
        """`u`."""
        return float(progress)


class Polynomial(Ramp):
    """`1 - (1 - u)^power` (Zhu and Gupta, arXiv 1710.01878, with power 3): most pruning early."""

    name: Literal["polynomial", "cubic"] = "polynomial"
    power: float = Field(default=3.0, gt=0)
    """1 is linear; larger prunes earlier. `cubic` is the name for 3."""

    @model_validator(mode="after")
    def _cubic_is_three(self) -> Polynomial:
        if self.name == "cubic" and self.power != 3:
            raise ValueError("cubic has power 3: write polynomial for another power")
        return self

    def share(self, progress: Progress) -> float:
        """`1 - (1 - u)^power`."""
        return 1.0 - (1.0 - float(progress)) ** self.power


class Cosine(Ramp):
    """`(1 - cos(pi u)) / 2`: slow at both ends."""

    name: Literal["cosine"] = "cosine"

    def share(self, progress: Progress) -> float:
        """`(1 - cos(pi u)) / 2`."""
        return (1.0 - math.cos(math.pi * float(progress))) / 2.0


AnySchedule = Annotated[
    Annotated[Constant | OneShot | Linear | Polynomial | Cosine, Field(discriminator="name")],
    BeforeValidator(name_only),
]
"""Any schedule; one with only a name may be written as a string."""
