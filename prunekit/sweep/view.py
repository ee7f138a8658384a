"""How a sweep looks: the plan, a line for each run that ends, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prunekit.errors import CheckpointError
from prunekit.foundation.number_text import seconds_text
from prunekit.foundation.processor import available_cores
from prunekit.runs.directory import RunDir
from prunekit.sweep.directory import CellState
from prunekit.sweep.estimate import Estimate, wall_seconds
from prunekit.sweep.plan import Plan, PlannedCell
from prunekit.sweep.prepare import unique_cells
from prunekit.sweep.runner import SweepOutcome


def plan_view(
    plan: Plan,
    states: Mapping[str, CellState],
    estimate: Estimate | None,
    jobs: int,
    notes: tuple[str, ...] = (),
) -> RenderableType:
    """Arms x axes, the number of runs, and the time.

    Args:
        plan: what is to be run.
        states: how cells ended, of those that did.
        estimate: the time of the others; None = not timed.
        jobs: runs at once.
        notes: sentences to add.
    """
    cells = unique_cells(plan)
    left = [key for key in cells if key not in states]
    failed = sum(state.status == "failed" for state in states.values())
    head = f"{plan.name}: {len(cells)} runs"
    if states:
        head += f", {len(states) - failed} done, {failed} failed, {len(left)} to run"
    lines: list[RenderableType] = [Text(head), arms_view(plan, states, estimate)]
    if estimate is not None and left:
        seconds = [estimate.seconds[key] for key in left if key in estimate.seconds]
        total = seconds_text(wall_seconds(seconds, jobs))
        if len(seconds) < len(left):
            total += f" for {len(seconds)} of {len(left)} runs"
        lines.append(Text(f"about {total} with {_jobs(jobs)}, from steps timed {_beside(jobs)}"))
        threads = max(cell.recipe.threads for cell in plan.cells)
        if jobs * threads > (cores := available_cores()):
            lines.append(Text(f"{jobs} x {threads} threads share {cores} cores", style="yellow"))
        for arm, why in estimate.untimed.items():
            lines.append(Text(f"not timed: {arm}: {why}", style="yellow"))
    lines += [Text(f"Note: {note}", style="yellow") for note in notes]
    return Group(*lines)


def _jobs(jobs: int) -> str:
    return "one job" if jobs == 1 else f"{jobs} jobs"


def _beside(jobs: int) -> str:
    return "alone" if jobs == 1 else f"{jobs} at once"


def arms_view(plan: Plan, states: Mapping[str, CellState], estimate: Estimate | None) -> Table:
    """A row for each arm: the values of each axis, its runs, what it needs, the time of a run."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("arm", no_wrap=True)
    for axis in plan.axes:
        table.add_column(axis, justify="right", overflow="fold")
    for column in ("runs", *(["done"] if states else []), "a run"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("needs", overflow="fold")
    for arm in plan.arms:
        cells = [cell for cell in plan.cells if cell.arm == arm]
        keys = {cell.key for cell in cells}
        done = sum(key in states and states[key].status == "done" for key in keys)
        needs = sorted({id.partition("/")[0] for cell in cells for id in cell.needs.values()})
        table.add_row(
            arm,
            *(_values(axis, cells) for axis in plan.axes),
            str(len(keys)),
            *([str(done)] if states else []),
            _time_of(keys, estimate),
            ", ".join(needs),
        )
    return table


def _values(axis: str, cells: list[PlannedCell]) -> str:
    """How many values of an axis an arm has; `one` where one run serves all of them."""
    if not any(axis in cell.axes for cell in cells):
        return "-"
    told = {label[axis] for cell in cells for label in (cell.axes, *cell.also)}
    own = {cell.axes[axis] for cell in cells}
    return str(len(told)) if len(own) == len(told) else f"{len(own)} for {len(told)}"


def _time_of(keys: Collection[str], estimate: Estimate | None) -> str:
    """The mean over the runs that are timed."""
    seconds = [estimate.seconds[key] for key in keys if estimate and key in estimate.seconds]
    return seconds_text(sum(seconds) / len(seconds)) if seconds else ""


class SweepProgress:
    """A line for each run that ends; on what is no terminal, only for one that failed."""

    def __init__(
        self, screen: Console, folder: Path, left: int, estimate: Estimate | None, jobs: int
    ) -> None:
        self.screen, self.folder, self.jobs = screen, folder, jobs
        self.left, self.total = left, left
        self.waiting = dict(estimate.seconds) if estimate else {}
        self.promised = self.took = 0.0

    def tell(self, cell: PlannedCell, state: CellState) -> None:
        """A cell ended."""
        self.left -= 1
        promised = self.waiting.pop(cell.key, 0.0)
        if state.status == "done" and promised:
            self.promised, self.took = self.promised + promised, self.took + state.seconds
        count = f"[{self.total - self.left}/{self.total}]"
        if state.status == "failed":
            self.screen.print(Text(f"{count} {cell.id}: failed: {state.error}"), soft_wrap=True)
        elif self.screen.is_terminal:
            accuracy = accuracy_of(self.folder / str(state.run))
            line = (
                f"{count} {cell.id}  {accuracy}  {seconds_text(state.seconds)}{self._time_left()}"
            )
            self.screen.print(Text(line), soft_wrap=True)

    def _time_left(self) -> str:
        if not self.left or not self.promised:
            return ""
        pace = self.took / self.promised
        left = seconds_text(wall_seconds(list(self.waiting.values()), self.jobs) * pace)
        timed = len(self.waiting)
        return f"  {left} left" + (f" for {timed} of {self.left} runs" if timed < self.left else "")


def accuracy_of(run: Path) -> str:
    """`98.32%` of a finished run."""
    try:
        return f"{RunDir(run).report()['accuracy']['test_top1']:.2%}"
    except (CheckpointError, KeyError, TypeError):
        return ""


def outcome_view(
    folder: Path, outcome: SweepOutcome, estimate: Estimate | None, jobs: int
) -> Group:
    """What came of the sweep, and how good the estimate was."""
    lines = [Text(f"{outcome.done} runs done, {len(outcome.failed)} failed")]
    lines += [
        Text(f"  {cell}: {state.error}", style="red") for cell, state in outcome.failed.items()
    ]
    if outcome.failed:
        lines.append(Text("  the same command with --retry-failed tries them again"))
    if outcome.ran:
        line = f"{len(outcome.ran)} runs took {seconds_text(outcome.wall_seconds)}"
        if estimate and outcome.whole and all(key in estimate.seconds for key in outcome.ran):
            promised = wall_seconds([estimate.seconds[key] for key in outcome.ran], jobs)
            ratio = outcome.wall_seconds / promised
            line += (
                f"; the estimate was {seconds_text(promised)} (measured / estimated {ratio:.2f})"
            )
        lines.append(Text(line))
    lines.append(Text(str(folder)))
    return Group(*lines)
