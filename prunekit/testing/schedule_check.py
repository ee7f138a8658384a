"""What must hold of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prunekit.foundation.timeline import Clock
from prunekit.pruning.schedules import Schedule
from prunekit.testing.cases import switches
from prunekit.testing.faults import ConformanceError, faults_of, refusals, report
from prunekit.testing.search import failure, smallest_failure, st
from prunekit.testing.settings import checked_settings

AROUND = 3
"""Steps before and after the window that are looked at."""


@dataclass(frozen=True, slots=True)
class ScheduleTrial:
    """The window of a strategy."""

    steps: int = 1
    """Optimizer steps."""
    per_epoch: int = 1
    """What `1ep` stands for."""


def check_schedule(
    cls: type[Schedule],
    config: Schedule | Mapping[str, Any],
    *,
    examples: int = 50,
    trial: ScheduleTrial | None = None,
) -> None:
    """Check all that the contract asks of a schedule, at every step of small windows.

    Windows that it refuses in `check`, by a RecipeError, are left out: give times in percent.

    Args:
        cls: the schedule.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        examples: windows of 1 to 60 steps to draw.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: Schedule = checked_settings(cls, config, Schedule, Schedule)
    taken = []

    def check(case: ScheduleTrial) -> None:
        _check(settings, case)
        taken.append(case)

    def find() -> tuple[ScheduleTrial, ConformanceError] | None:
        if trial is not None:
            return failure(check, trial)
        windows = st.builds(ScheduleTrial, st.integers(1, 60), st.integers(1, 9))
        found = smallest_failure(check, windows, examples)
        if found is None and not taken:
            raise ConformanceError("it refuses all windows of 1 to 60 steps: give times in percent")
        return found

    report("schedule", cls, settings, find)


def _check(schedule: Schedule, case: ScheduleTrial) -> None:
    """Everything in one window.

    Raises:
        ConformanceError: what is broken.
        RefusedError: the schedule refuses the window.
    """
    outside = switches()
    with refusals("check"):
        schedule.check(case.steps, case.per_epoch)
    marks = _marks(schedule, case)
    steps = range(-AROUND, case.steps + AROUND)
    shares = {step: _share(schedule, case, step) for step in steps}
    _rises(shares, marks, case)
    for before, step in pairwise(steps):
        moved = shares[before] != shares[step]
        on_its_way = schedule.ramps and min(marks) < step <= max(marks)
        if moved and not on_its_way and step not in marks:
            raise ConformanceError(
                f"at moves at step {step}, which is none of changes {sorted(marks)}: masks would "
                "not follow there"
            )
    if switches() != outside:
        raise ConformanceError("changes a global random state or switch: it may draw nothing")


def _marks(schedule: Schedule, case: ScheduleTrial) -> frozenset[int]:
    with faults_of("changes"):
        first, again = (schedule.changes(case.steps, case.per_epoch) for _ in range(2))
        marks = schedule.marks(_clock(case, 0))
    whole = isinstance(first, tuple) and all(type(n) is int and n >= 0 for n in first)
    if not whole or not first:
        raise ConformanceError(f"changes is {first!r}, not a tuple of steps from 0 on")
    if first != again:
        raise ConformanceError(f"changes is not pure: asked twice, it said {first}, then {again}")
    if not marks >= {*first}:
        raise ConformanceError(f"marks {sorted(marks)} lack some of changes {first}")
    return marks


def _share(schedule: Schedule, case: ScheduleTrial, step: int) -> float:
    with faults_of(f"at, step {step},"):
        first, again = (schedule.at(_clock(case, step)) for _ in range(2))
    if not (isinstance(first, float) and 0 <= first <= 1):
        raise ConformanceError(f"at is {first!r} at step {step}, not a float in [0, 1]")
    if first != again:
        raise ConformanceError(f"at is not pure: at step {step} it said {first}, then {again}")
    return first


def _rises(shares: Mapping[int, float], marks: frozenset[int], case: ScheduleTrial) -> None:
    """Never falls, and is 1 from the last mark on, which lies in the window."""
    for before, step in pairwise(shares):
        if shares[step] < shares[before]:
            raise ConformanceError(
                f"at falls from {shares[before]} to {shares[step]} at step {step}: it may only rise"
            )
    last = max(marks)
    if last > case.steps:
        raise ConformanceError(f"check takes a window that ends before the last change, at {last}")
    if shares[last] != 1:
        raise ConformanceError(
            f"at is {shares[last]} at step {last}, the last of changes: it must be exactly 1 there"
        )


def _clock(case: ScheduleTrial, step: int) -> Clock:
    steps = case.steps
    return Clock(step, steps, case.per_epoch, "train", step, steps, step, steps)
