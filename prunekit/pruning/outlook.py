"""What a strategy will do in a run of this length, counted before the first step."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from prunekit.foundation.number_text import counted
from prunekit.foundation.timeline import Clock, Timeline
from prunekit.pruning.assignment import Assigned, DueStrategies
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.checks import passes_of
from prunekit.pruning.schedules import Schedule
from prunekit.pruning.strategies.base import PruningStrategy
from prunekit.pruning.structures.base import Structure

FEW = 10
"""A ramp in fewer updates prunes much at once; up to so many steps are named."""
NO_QUARTER = 2
"""Of so many steps 75 % are all of them, rounded half up."""
MOST_ASKED = 1000
"""Steps that are asked how often they pass, of a run that has more."""
LIMIT = 100_000
"""Of a row of more steps than these only a part is looked at."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """When the masks of a strategy change, and how long they have the full sparsity."""

    label: str
    changes: tuple[int, ...]
    """Optimizer steps done where new masks come into force."""
    whole: bool
    """Whether `changes` has all of them; a very long run is looked at in part."""
    full_steps: int | None
    """Optimizer steps at the last target, or at the end of the schedule; None: there is neither."""
    rises: int | None
    """Updates of a ramp that prune more than the one before; None where nothing ramps."""
    emerges: bool
    """Whether the strategy promises no sparsity."""
    steps: int
    """Optimizer steps of the strategy's window."""
    named: bool
    """Whether the steps are named, however many there are."""
    passes: float = 1.0
    """Forward and backward passes of a step of the window, as a mean."""

    def line(self) -> str:
        """`magnitude: masks change 101 times, 250 steps at the full sparsity`."""
        changes, full = self._changes(), ""
        if self.full_steps is not None:
            steps = "step" if self.full_steps == 1 else "steps"
            joint = "; " if "step" in changes else ", "
            full = f"{joint}{self.full_steps:,} {steps} {self._where()}"
        emerges = "; the sparsity emerges" if self.emerges else ""
        passes = "" if self.passes == 1 else f"; {self.passes:.3g} passes a step"
        return f"{self.label}: {changes}{full}{emerges}{passes}"

    def warnings(self) -> Iterator[str]:
        """What of a ramp goes too fast or comes too late in a run of this length."""
        if self.rises is None or not self.steps:  # a run without a step prunes at once
            return
        if self.rises < FEW:
            yield (
                f"{self.label}: the sparsity rises in only {counted(self.rises, 'update')}: "
                f"{self._more_often()}train longer"
            )
        if self.full_steps == 0:
            why = "as the ramp ends with the run: end it sooner, as schedule.stop: 75%"
            if self.steps <= NO_QUARTER:
                why = f"as its window has only {counted(self.steps, 'step')}: train longer"
            yield f"{self.label}: no step is trained {self._where()}, {why}"

    def _more_often(self) -> str:
        """What else helps a ramp of few updates; nothing where masks change at each step of it."""
        gaps = [after - before for before, after in pairwise(self.changes)]
        if gaps and max(gaps) == 1:
            return ""
        return "change masks more often (cadence.every), ramp longer (schedule), or "

    def _where(self) -> str:
        return "at the end of the schedule" if self.emerges else "at the full sparsity"

    def _changes(self) -> str:
        steps = [f"{step:,}" for step in self.changes]
        if not steps and self.whole:
            return "masks never change"
        if not steps:
            return "when masks change is not known ahead"
        if not self.whole:
            return f"masks change more than {len(steps):,} times"
        if len(steps) == 1:
            return f"masks change once, at step {steps[0]}"
        times = f"masks change {len(steps):,} times"
        if len(steps) <= FEW and self.changes[-1] - self.changes[0] == len(steps) - 1 > 1:
            return f"{times}, at each step from {steps[0]} to {steps[-1]}"
        if len(steps) <= FEW:
            return f"{times}, at steps {', '.join(steps)}"
        return f"{times}, at steps {', '.join(steps[:3])} .. {steps[-1]}" if self.named else times


def outlook(timeline: Timeline, assigned: Assigned) -> Outlook:
    """Go through a run without training: `due` and `target` depend on the clock alone."""
    strategy = assigned.strategy
    steps, whole = _steps(timeline, strategy)
    last, wanted, changes, rises = 0.0, 0.0, list[tuple[int, float | None]](), 0
    for step, clock in _updates(timeline, assigned, steps):
        level, asked = _level(strategy, clock), _asked(strategy, clock)
        if level or last or level is None:  # an update that prunes nothing yet changes no mask
            changes.append((step, level))
        rises += asked is not None and asked > wanted  # whatever the units make of it
        last, wanted = level or 0.0, asked or 0.0
    cadence = getattr(strategy.config, "cadence", None)
    named = isinstance(cadence, Cadence) and isinstance(cadence.every, str)
    schedule = _schedule(strategy)
    ramps = schedule is not None and schedule.ramps and not named and last > 0
    ramps = ramps and not _has_one_level(strategy, last)
    start = timeline.clock(0, strategy.config.during)
    return Outlook(
        label=assigned.label,
        steps=start.active_steps,
        changes=tuple(step for step, _ in changes),
        whole=whole,
        full_steps=_full_steps(changes, timeline.total_steps),
        rises=rises if ramps else None,
        emerges=strategy.target(start) is None,
        named=named,
        passes=_mean_passes(timeline, assigned),
    )


def _mean_passes(timeline: Timeline, assigned: Assigned) -> float:
    """Passes of a step; of a long run a part of its steps is asked."""
    strategy = assigned.strategy
    if type(strategy).around_gradients is PruningStrategy.around_gradients:
        return 1.0
    during, total = strategy.config.during, timeline.total_steps
    steps = range(0, total, max(1, total // MOST_ASKED))
    active = [step for step in steps if timeline.is_active(step, during, ending=False)]
    clocks = [timeline.clock(step, during, ending=False) for step in active]
    return sum(passes_of(assigned, c) for c in clocks) / len(clocks) if clocks else 1.0


def _full_steps(changes: Sequence[tuple[int, float | None]], total: int) -> int | None:
    """Steps under masks of the last level."""
    if not changes or changes[-1][1] is None:
        return None
    full = changes[-1][1]
    pairs = pairwise([*changes, (total, None)])
    return sum(after - step for (step, level), (after, _) in pairs if level == full)


def _has_one_level(strategy: PruningStrategy, end: float) -> bool:
    """Whether the structure prunes nothing or all that it ever will, as n:m does."""
    structure = getattr(strategy.config, "structure", None)
    return isinstance(structure, Structure) and structure.reach(end / 2) in (0.0, end)


def _level(strategy: PruningStrategy, clock: Clock) -> float | None:
    """The target, or how far the schedule is where the sparsity emerges; None: there is neither."""
    target, schedule = strategy.target(clock), _schedule(strategy)
    return schedule.at(clock) if target is None and schedule is not None else target


def _asked(strategy: PruningStrategy, clock: Clock) -> float | None:
    """As `_level`, by what the settings ask for."""
    asked = strategy.asked(clock)
    return _level(strategy, clock) if asked is None else asked


def _schedule(strategy: PruningStrategy) -> Schedule | None:
    schedule = getattr(strategy.config, "schedule", None)
    return schedule if isinstance(schedule, Schedule) else None


def _updates(
    timeline: Timeline, assigned: Assigned, steps: Sequence[int]
) -> Iterator[tuple[int, Clock]]:
    """Each update as the engine asks for it: where its masks come into force, and its clock."""
    asked, inside = DueStrategies(timeline, [assigned]), assigned.strategy.reads == "gradients"
    for step in steps:
        yield from ((step, due.clock) for due in asked.due(step, inside=False))
        if inside and step < timeline.total_steps:
            yield from ((step + 1, due.clock) for due in asked.due(step, inside=True))


def _steps(timeline: Timeline, strategy: PruningStrategy) -> tuple[list[int], bool]:
    """Steps of the run at which the strategy may be due, in order, and whether these are all."""
    during = strategy.config.during
    clock = timeline.clock(0, during, ending=False)
    told = strategy.moments(clock) if _tells_all(type(strategy)) else None
    if told is None and clock.active_steps >= LIMIT:
        return [], False
    rows = [range(clock.active_steps + 1)] if told is None else list(told)
    active = {step for row in rows for step in row[:: -(-len(row) // LIMIT) or 1]}
    spans, before = list[tuple[int, int, int]](), 0
    for span, first in zip(timeline.spans, _first_steps(timeline), strict=False):
        if not during or span.phase in during:
            spans.append((first, before, span.steps))
            active |= {before, before + span.steps}
            before += span.steps
    active.add(before - 1)  # here who reads gradients decides the masks of the end
    ordered, found = sorted(active), set[int]()
    for first, begin, steps in spans:
        here = ordered[bisect_left(ordered, begin) : bisect_right(ordered, begin + steps)]
        found.update(first + step - begin for step in here)
    return sorted(found), all(len(row) <= LIMIT for row in rows)


def _first_steps(timeline: Timeline) -> Iterator[int]:
    return accumulate((span.steps for span in timeline.spans), initial=0)


def _tells_all(strategy: type[PruningStrategy]) -> bool:
    """Whether `moments` was written for the `due` that there is, or for one that overrides it."""
    return _home(strategy, "moments") <= _home(strategy, "due")


def _home(cls: type, hook: str) -> int:
    """How far up the hook was defined last."""
    return next(i for i, base in enumerate(cls.__mro__) if hook in vars(base))
