"""A plan brought to its end: what is done is kept, what can begin begins, what fails is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prunekit.errors import CheckpointError, ResourceError, StopRequestedError, WriteError
from prunekit.foundation.signals import StopSignals
from prunekit.sweep.cell import Draw, run_cell
from prunekit.sweep.directory import CellState, log_path, write_state
from prunekit.sweep.plan import Plan, PlannedCell
from prunekit.sweep.prepare import state_of, states_of, unique_cells
from prunekit.sweep.workers import POLL_SECONDS, Executor, Task, TaskOutcome

Tell = Callable[[PlannedCell, CellState], None]
"""Called for every cell that ends."""


@dataclass(slots=True)
class SweepOutcome:
    """What came of a call."""

    done: int = 0
    """Cells done, those of earlier calls included."""
    failed: dict[str, CellState] = field(default_factory=dict)
    """Cell id -> how it failed, in the order of the plan."""
    ran: dict[str, float] = field(default_factory=dict)
    """Key -> seconds, of the cells that this call brought to their end."""
    wall_seconds: float = 0.0
    whole: bool = True
    """Whether this call did all of each of them: none failed, none had been begun before."""

    @property
    def exit_code(self) -> int:
        """0, or that of the first failed run in the order of the plan."""
        return next((state.exit_code for state in self.failed.values()), 0)


def run_plan(
    plan: Plan, folder: Path, executor: Executor, tell: Tell, draw: Draw | None = None
) -> SweepOutcome:
    """Run what is not done, in a directory that is `prepared`.

    Raises:
        StopRequestedError: SIGINT, SIGTERM or SIGHUP; what was at work is saved.
        KeyboardInterrupt: a second one: what was at work goes on from its last checkpoint.
        WriteError: the disk is full: what was at work is asked to save; nothing counts as failed.
    """
    began = time.monotonic()
    work = _Work(plan, folder, executor, tell, draw)
    with StopSignals() as signals:
        while work.pending or executor.busy:
            if signals.times and not work.stopping:
                work.stop()
            if signals.times > 1:
                raise KeyboardInterrupt(
                    "Interrupted: the same command goes on, with each run where it was last saved"
                )
            if not work.stopping:
                work.begin_what_can()
            if work.stopping and not executor.busy:
                break
            work.take(executor.finished(POLL_SECONDS))
    if work.lost is not None:
        raise work.lost
    if work.stopping and len(work.states) < len(work.cells):
        raise StopRequestedError(
            f"stopped: {len(work.states)} of {len(work.cells)} runs have ended; the same command "
            "goes on with the others where they were"
        )
    return work.outcome(time.monotonic() - began)


class _Work:
    def __init__(
        self, plan: Plan, folder: Path, executor: Executor, tell: Tell, draw: Draw | None
    ) -> None:
        self.draw = draw
        self.plan, self.folder, self.executor, self.tell = plan, folder, executor, tell
        self.cells = unique_cells(plan)
        self.states = states_of(plan, folder)
        self.pending = {key: cell for key, cell in self.cells.items() if key not in self.states}
        self.ran: dict[str, float] = {}
        self.whole = True
        self.stopping = False
        self.lost: WriteError | None = None
        self.cut_short: set[str] = set()
        """Keys of the cells whose process ended of a stop once."""

    def stop(self) -> None:
        """Begin nothing more, and let what is at work save."""
        self.stopping = True
        self.executor.stop()

    def begin_what_can(self) -> None:
        """Submit cells whose needs are met; those whose needs failed fail."""
        for key, cell in list(self.pending.items()):
            lost = next((s for s in cell.sources.values() if self._status(s) == "failed"), None)
            if lost is not None:
                del self.pending[key]
                self.end(cell, self._needs_failed(lost))
            elif self.executor.room and all(
                self._status(source) == "done" for source in cell.sources.values()
            ):
                del self.pending[key]
                arguments = (self.folder, key, cell.sources, self.draw)
                task = Task(key, run_cell, arguments, log_path(self.folder, key))
                self.executor.submit(task)

    def _status(self, key: str) -> str | None:
        state = self.states.get(key)
        return state.status if state else None

    def _needs_failed(self, key: str) -> CellState:
        return CellState(
            "failed", None, f"needs {self.cells[key].id}, which failed", self.states[key].exit_code
        )

    def take(self, outcomes: list[TaskOutcome]) -> None:
        """Note what ended; a cell writes its own state, unless its process died."""
        for outcome in outcomes:
            cell = self.cells[outcome.task.tag]
            state = outcome.value or self._recorded(cell.key)
            if state is not None:
                self.states[cell.key] = state
                self.ran[cell.key] = state.seconds
                self.whole &= state.status == "done" and not state.resumed
                self.tell(cell, state)
            elif isinstance(outcome.error, WriteError):
                self.lost = outcome.error
                self.stop()
            elif (outcome.died is None and outcome.error is None) or self._innocent(outcome):
                self.pending[cell.key] = cell  # stopped from outside, or never begun: it goes on
            elif not self.stopping:
                what = outcome.died or str(outcome.error)
                self.end(cell, CellState("failed", None, what, ResourceError.exit_code))

    def _innocent(self, outcome: TaskOutcome) -> bool:
        """Whether a process ended of a stop before it could save; a second time is no accident."""
        first = outcome.task.tag not in self.cut_short
        self.cut_short |= {outcome.task.tag} if outcome.stopped else set()
        return outcome.stopped and first

    def _recorded(self, key: str) -> CellState | None:
        """The state that a process wrote before it died."""
        try:
            return state_of(self.folder, key)
        except CheckpointError:
            return None

    def end(self, cell: PlannedCell, state: CellState) -> None:
        """Record a failure that no process recorded."""
        write_state(self.folder, cell.key, state)
        self.states[cell.key] = state
        self.tell(cell, state)

    def outcome(self, wall: float) -> SweepOutcome:
        """Of all cells."""
        states: Mapping[str, CellState] = self.states
        failed = {
            cell.id: states[key]
            for key, cell in self.cells.items()
            if states[key].status == "failed"
        }
        done = len(self.cells) - len(failed)
        return SweepOutcome(done, failed, self.ran, wall, self.whole)
