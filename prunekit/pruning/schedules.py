"""How much of the final sparsity is pruned when. Imports no torch."""

from __future__ import annotations

import abc
import math
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.values import ComponentConfig, NewKey, OldDefault
from prunekit.registry import SCHEDULES
from prunekit.registry.values import Chosen

Progress = float | Fraction
"""Part of a ramp that is done, in [0, 1]."""


class Schedule(ComponentConfig, abc.ABC):
    """The share of the final sparsity, in [0, 1], as a function of the clock; it never falls.

    `prunekit.testing.check_schedule` checks what must hold.
    """

    paper: ClassVar[str] = ""
    """Where it comes from: `arXiv:NNNN.NNNNN`."""
    ramps: ClassVar[bool] = False
    """Whether the share rises bit by bit, so that it takes many updates to follow it."""

    @abc.abstractmethod
    def at(self, clock: Clock) -> float:
        """The share at `clock.active_step`, also outside the ramp and the window."""

    @abc.abstractmethod
    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """Active steps at which the share begins to rise, jumps, or reaches 1 (the largest).

        Args:
            active_steps: optimizer steps of the strategy's window.
            steps_per_epoch: optimizer steps that `1ep` stands for.
        """

    def marks(self, clock: Clock) -> frozenset[int]:
        """The `changes` of the clock's window: there masks must be updated at any cadence."""
        return frozenset(self.changes(clock.active_steps, clock.steps_per_epoch))

    def check(self, active_steps: int, steps_per_epoch: int) -> None:
        """Make sure that the share reaches 1 within the window; arguments as in `changes`.

        Raises:
            RecipeError: it does not.
        """
        last = max(self.changes(active_steps, steps_per_epoch))
        if last > active_steps:
            raise RecipeError(
                f"schedule {self.name!r}: the sparsity is reached at step {last}, but the strategy "
                f"works for {active_steps} steps: end the schedule sooner, as stop: 100%"
            )


class Constant(Schedule):
    """The whole target from the first step on."""

    name: Literal["constant"] = "constant"

    def at(self, clock: Clock) -> float:
        """1, always."""
        return 1.0

    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """The first step."""
        return (0,)


class OneShot(Schedule):
    """Nothing, then everything from `start` on."""

    name: Literal["one_shot"] = "one_shot"
    start: Duration = duration("0%")
    """Where the share jumps from 0 to 1; `%` of the strategy's window."""

    def at(self, clock: Clock) -> float:
        """0 before start, then 1."""
        (start,) = self.changes(clock.active_steps, clock.steps_per_epoch)
        return float(clock.active_step >= start)

    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """The jump."""
        return (self.start.steps(active_steps, steps_per_epoch),)


class MultiStep(Schedule):
    """Jumps by a table."""

    name: Literal["multi_step"] = "multi_step"
    table: tuple[tuple[Duration, float], ...] = Field(min_length=1)
    """Pairs of when and the share from there on, as `[[25%, 0.5], [50%, 1.0]]`; the last is 1."""

    @model_validator(mode="after")
    def _rises_to_one(self) -> MultiStep:
        shares = [share for _, share in self.table]
        if shares[0] < 0 or shares[-1] != 1 or any(b < a for a, b in pairwise(shares)):
            raise ValueError("the shares rise from at least 0 to 1 at the last entry")
        for (a, _), (b, _) in pairwise(self.table):
            if a.unit == b.unit and a.amount > b.amount:
                raise ValueError(f"{b} stands after {a}: write the table in order")
        return self

    def at(self, clock: Clock) -> float:
        """The largest share whose time has come; 0 before the first."""
        times = self.changes(clock.active_steps, clock.steps_per_epoch)
        pairs = zip(times, self.table, strict=True)
        return max((share for t, (_, share) in pairs if t <= clock.active_step), default=0.0)

    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """The times of the table."""
        return tuple(when.steps(active_steps, steps_per_epoch) for when, _ in self.table)


class Ramp(Schedule):
    """A rise from 0 at `start` to exactly 1 at `stop`; equal ends make a jump."""

    ramps = True
    start: Duration = duration("0%")
    """Where the share begins to rise; `%` of the strategy's window."""
    stop: Annotated[Duration, OldDefault(2, "100%")] = duration("75%")
    """Where the share is 1; by default the last quarter trains at the full sparsity."""

    @model_validator(mode="after")
    def _starts_before_it_stops(self) -> Ramp:
        if self.start.unit == self.stop.unit and self.start.amount > self.stop.amount:
            default = "" if "stop" in self.model_fields_set else ", its default: write stop too"
            raise ValueError(f"start {self.start} lies after stop {self.stop}{default}")
        return self

    @abc.abstractmethod
    def share(self, progress: Progress) -> float:
        """The share at `progress` of the ramp: 0 at 0, 1 at 1, never falling."""

    def at(self, clock: Clock) -> float:
        """0 before start, 1 from stop on, `share` in between."""
        start, stop = self._ends(clock.active_steps, clock.steps_per_epoch)
        if clock.active_step >= stop:
            return 1.0
        if clock.active_step < start:
            return 0.0
        return self.share(Fraction(clock.active_step - start, stop - start))

    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """Start and stop."""
        return self._ends(active_steps, steps_per_epoch)

    def check(self, active_steps: int, steps_per_epoch: int) -> None:
        """As `Schedule.check`; start may not lie after stop.

        Raises:
            RecipeError: it does, or 1 is not reached.
        """
        super().check(active_steps, steps_per_epoch)
        start, stop = self._ends(active_steps, steps_per_epoch)
        if start > stop:
            raise RecipeError(
                f"schedule {self.name!r}: start {self.start} is step {start}, after stop "
                f"{self.stop}, step {stop}: lower start, or write a later stop"
            )

    def _ends(self, active_steps: int, steps_per_epoch: int) -> tuple[int, int]:
        start = self.start.steps(active_steps, steps_per_epoch)
        return start, self.stop.steps(active_steps, steps_per_epoch)


class Rise(Ramp):
    """A ramp that may begin with a jump (GMP*, arXiv:2210.06384: at a high sparsity the last
    updates then prune less, and all that follows the jump is recovery)."""

    initial: Annotated[float, NewKey(3, before=0.0)] = Field(default=0.0, ge=0, lt=1)
    """Share of the final sparsity that `start` prunes at once, [0, 1); the ramp rises from it: 0.7
    of a sparsity of 0.9 is 0.63."""

    def at(self, clock: Clock) -> float:
        """0 before start, 1 from stop on, `initial + (1 - initial) share` in between."""
        start, _ = self._ends(clock.active_steps, clock.steps_per_epoch)
        rest = super().at(clock)
        if clock.active_step < start or rest == 1:
            return rest
        return min(1.0, self.initial + (1 - self.initial) * rest)


class Linear(Rise):
    """`u`: as much in each step."""

    name: Literal["linear"] = "linear"

    def share(self, progress: Progress) -> float:
        """`u`."""
        return float(progress)


class Polynomial(Rise):
    """`1 - (1 - u)^power`: most is pruned early (power 3: Zhu and Gupta, arXiv:1710.01878)."""

    paper: ClassVar[str] = "arXiv:1710.01878 (power 3)"
    name: Literal["polynomial", "cubic"] = "polynomial"
    power: float = Field(default=3.0, gt=0)
    """1 is linear; a larger one prunes earlier. `cubic` is the name for 3."""

    @model_validator(mode="after")
    def _cubic_is_three(self) -> Polynomial:
        if self.name == "cubic" and self.power != 3:
            raise ValueError("cubic has power 3: write name: polynomial for another power")
        return self

    def share(self, progress: Progress) -> float:
        """`1 - (1 - u)^power`."""
        return 1.0 - math.pow(1.0 - float(progress), self.power)


class Cosine(Rise):
    """`(1 - cos(pi u)) / 2`: slow at both ends."""

    name: Literal["cosine"] = "cosine"

    def share(self, progress: Progress) -> float:
        """`(1 - cos(pi u)) / 2`."""
        return (1.0 - math.cos(math.pi * float(progress))) / 2.0


class Geometric(Ramp):
    """Equal parts of what remains, in rounds (lottery tickets, arXiv:1803.03635).

    After j of k rounds, evenly spaced over the ramp, the share is (1 - (1-p)^j) / (1 - (1-p)^k).
    Divided so, the last round meets the final sparsity exactly, whatever p; with final sparsity
    1 - (1-p)^k each round prunes just the fraction p of the units that remain.
    """

    ramps = False
    paper: ClassVar[str] = "arXiv:1803.03635"
    name: Literal["geometric"] = "geometric"
    stop: Duration = duration("100%")
    """Where the share is 1: the last round ends there."""
    rounds: int = Field(ge=1)
    """Prunings, k."""
    fraction: float = Field(default=0.2, gt=0, lt=1)
    """Part of the remaining units that a round prunes, p."""

    def share(self, progress: Progress) -> float:
        """A staircase of `rounds` steps; pass a Fraction to be exact at their edges."""
        done = math.floor(progress * self.rounds)
        kept = math.log1p(-self.fraction)  # of one round; expm1 keeps tiny fractions exact
        return math.expm1(done * kept) / math.expm1(self.rounds * kept)

    def changes(self, active_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
        """Start, and the step at which each round is due."""
        start, stop = self._ends(active_steps, steps_per_epoch)
        return tuple(start + -(-j * (stop - start) // self.rounds) for j in range(self.rounds + 1))


AnySchedule = Annotated[
    SerializeAsAny[Schedule], BeforeValidator(SCHEDULES.parse_in_recipe), Chosen("schedule")
]
"""Any schedule, by its name; one with only a name may be written as a string."""
