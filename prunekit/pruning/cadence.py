"""When masks change. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, field_validator

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.values import Frozen, OldDefault


def _kind(value: Any) -> str:
    return "word" if value in ("phase", "once") else "duration"


Every = Annotated[
    Annotated[Duration, Tag("duration")] | Annotated[Literal["phase", "once"], Tag("word")],
    Discriminator(_kind),
]
"""An interval, or a word for one."""


class Cadence(Frozen):
    """At the first step, then at every multiple of an interval, and a last time at `stop`.

    So the last masks are those of `stop`, also where the interval does not divide it.
    """

    every: Annotated[Every, OldDefault(2, "100st")] = duration("1%")
    """The interval, `%` of the strategy's window, a step at least; or `phase`: at the end of each
    phase up to `stop`; or `once`: at the first step. A schedule adds its begin, jumps and end."""
    stop: Duration = duration("100%")
    """The last update; `%` of the strategy's window, whose end it never passes."""

    @field_validator("every")
    @classmethod
    def _every_is_positive(cls, every: Duration | str) -> Duration | str:
        if isinstance(every, Duration) and every.amount == 0:
            raise ValueError("an interval of 0 steps: write 1st for an update at each step")
        return every

    def fires(self, clock: Clock) -> bool:
        """Whether masks change at `clock.active_step`.

        Raises:
            RecipeError: see `check`.
        """
        step, steps = clock.active_step, clock.active_steps
        if self.every == "once":
            return step == 0
        last = min(steps, self.stop.steps(steps, clock.steps_per_epoch))
        if isinstance(self.every, str):
            return step <= last and clock.phase_step == clock.phase_steps
        interval = self._interval(self.every, steps, clock.steps_per_epoch)
        return step == last or (step < last and step % interval == 0)

    def moments(self, clock: Clock) -> tuple[Sequence[int], ...]:
        """The active steps at which it fires in the window of `clock`, without ends of phases."""
        if isinstance(self.every, str):
            return ((0,),) if self.every == "once" else ()
        steps, per_epoch = clock.active_steps, clock.steps_per_epoch
        last = min(steps, self.stop.steps(steps, per_epoch))
        return range(0, last, self._interval(self.every, steps, per_epoch)), (last,)

    def check(self, active_steps: int, steps_per_epoch: int) -> None:
        """Make sure that the interval is a step or more; arguments as in `Schedule.check`.

        Raises:
            RecipeError: it is given in epochs, and rounds to no step at all.
        """
        if isinstance(self.every, Duration):
            self._interval(self.every, active_steps, steps_per_epoch)

    @staticmethod
    def _interval(every: Duration, active_steps: int, steps_per_epoch: int) -> int:
        steps = every.steps(active_steps, steps_per_epoch)
        if steps == 0 and every.unit != "%":
            raise RecipeError(
                f"cadence: every {every} is less than half a step, where an epoch has "
                f"{steps_per_epoch} and the strategy's window {active_steps}: write 1st or more"
            )
        return max(1, steps)  # a share of a short window is a step
