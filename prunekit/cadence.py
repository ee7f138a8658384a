"""When masks change. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, field_validator

from prunekit.clock import Clock
from prunekit.duration import Duration, duration
from prunekit.errors import RecipeError
from prunekit.frozen import Frozen

WORDS = ("phase", "once")


def _kind(value: Any) -> str:
    return "word" if value in WORDS else "duration"


class Cadence(Frozen):
    """At the first step, then every so often, and a last time at `stop`."""

    every: Annotated[
        Annotated[Duration, Tag("duration")] | Annotated[Literal["phase", "once"], Tag("word")],
        Discriminator(_kind),
    ] = duration("100st")
    """Interval between updates; `phase`: at the end of each phase; `once`: at the first step only."""
    stop: Duration = duration("100%")
    """The last update; `%` of the strategy's window, and never after its end."""

    @field_validator("every")
    @classmethod
    def _every_is_positive(cls, every: Duration | str) -> Duration | str:
        if isinstance(every, Duration) and every.amount == 0:
            raise ValueError("an interval of 0 steps: write 1st for an update at every step")
        return every

    def fires(self, clock: Clock) -> bool:
        """Whether masks change at `clock.active_step`.

        Raises:
            RecipeError: `every` rounds to 0 steps.
        """
        if self.every == "once":
            return clock.active_step == 0
        stop = self.stop.steps(clock.active_steps, clock.steps_per_epoch)
        last = min(stop, clock.active_steps)
        if clock.active_step > last:
            return False
        if not isinstance(self.every, Duration):
            return clock.phase_step == clock.phase_steps
        return clock.active_step == last or clock.active_step % self._interval(clock) == 0

    def _interval(self, clock: Clock) -> int:
        assert isinstance(self.every, Duration)
        steps = self.every.steps(clock.active_steps, clock.steps_per_epoch)
        if steps == 0:
            raise RecipeError(
                f"cadence.every: {self.every} is less than half a step "
                f"(1ep is {clock.steps_per_epoch} steps): give at least 1st"
            )
        return steps
