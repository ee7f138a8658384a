"""Whose turn it is to decide masks: inside a step or between steps, and by which clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunekit.assignment import Assigned
from prunekit.foundation.timeline import Clock, Timeline


@dataclass(frozen=True, slots=True)
class Turn:
    """A strategy at a step."""

    index: int
    """Its place among the strategies."""
    assigned: Assigned
    clock: Clock


class Turns:
    """Which strategies are at work at a step, and which of them are asked for masks; pure."""

    def __init__(self, timeline: Timeline, assigned: Sequence[Assigned]) -> None:
        self.timeline, self.assigned = timeline, assigned

    def active(self, step: int, *, inside: bool) -> Iterator[Turn]:
        """The strategies whose window `step` touches.

        Args:
            step: optimizer steps done.
            inside: in the step that follows, or before it, where a phase may just have ended.
        """
        for index, assigned in enumerate(self.assigned):
            during = assigned.strategy.config.during
            if self.timeline.is_active(step, during, ending=not inside):
                clock = self.timeline.clock(step, during, ending=not inside)
                if inside and assigned.strategy.reads == "gradients":
                    clock = self._last_inside(assigned, clock)
                yield Turn(index, assigned, clock)

    def due(self, step: int, *, inside: bool) -> Iterator[Turn]:
        """Those of them that decide masks now."""
        for turn in self.active(step, inside=inside):
            strategy, clock = turn.assigned.strategy, turn.clock
            # the first masks come between steps for all: no step is taken without
            asked_inside = strategy.reads == "gradients" and clock.active_step > 0
            if asked_inside == inside and strategy.due(clock):
                yield turn

    def _last_inside(self, assigned: Assigned, clock: Clock) -> Clock:
        """The update of the window's end is not between steps for who reads gradients.

        It is asked inside the last step, with the clock of the end.
        """
        if clock.active_step + 1 == clock.active_steps:
            end = self.timeline.clock(clock.step + 1, assigned.strategy.config.during)
            if assigned.strategy.due(end):
                return end
        return clock
