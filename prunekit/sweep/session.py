"""One call of `prunekit sweep`: the plan is shown, then run, then what came of it is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from prunekit.foundation.console import console
from prunekit.foundation.signals import StopSignals
from prunekit.foundation.unfinished import scratch
from prunekit.foundation.values import RECIPE_FORMAT
from prunekit.registry.own_code import require_code
from prunekit.sweep.cell import Draw
from prunekit.sweep.command_line import SweepRequest
from prunekit.sweep.directory import begun_with, begun_with_code
from prunekit.sweep.estimate import Estimate, estimate
from prunekit.sweep.plan import make_plan
from prunekit.sweep.prepare import (
    check_data,
    check_free,
    left_out,
    prepared,
    states_of,
    unique_cells,
)
from prunekit.sweep.runner import run_plan
from prunekit.sweep.shards import Shard, part_of
from prunekit.sweep.slurm import Jobs, slurm_executor
from prunekit.sweep.view import SweepProgress, outcome_view, plan_view
from prunekit.sweep.wanted_code import naming_its_code
from prunekit.sweep.workers import Executor, Workers

NO_ESTIMATE = "no time estimate: the machine of the jobs is another"


class Session:
    """A sweep that was asked for, in its directory `<out>/<sweep>`."""

    def __init__(
        self,
        request: SweepRequest,
        out: Path,
        *,
        retry_failed: bool = False,
        draw: Draw | None = None,
        shard: Shard | None = None,
    ) -> None:
        """Read what there is of it.

        Args:
            request: what to run.
            out: the parent of the directories of sweeps.
            retry_failed: also what failed before.
            draw: makes the picture of each run that ends, in the process that made the run.
            shard: the part of the sweep that is run; None = all of it.
        """
        self.request, self.retry_failed, self.draw = request, retry_failed, draw
        self.folder = (out / request.design.name).resolve()
        with naming_its_code(self.folder):
            self.whole = make_plan(request.design, begun_with(self.folder))
        if self.whole.code is not None:
            require_code(begun_with_code(self.folder), self.folder)
        check_data(self.whole, self.folder, states_of(self.whole, self.folder))
        self.plan = part_of(self.whole, shard) if shard else self.whole
        self.shard = str(shard or "")
        self.states = states_of(self.plan, self.folder)
        if retry_failed:
            self.states = {k: state for k, state in self.states.items() if state.status == "done"}
        self.left = [c for key, c in unique_cells(self.plan).items() if key not in self.states]
        self.screen = console()

    def on_this_machine(self, jobs: int, *, dry_run: bool = False, local: int = 0) -> int:
        """Show the plan with its time and run it, `jobs` runs at once; the exit code.

        Args:
            jobs: runs at once.
            dry_run: show the plan, and run none.
            local: the number of this call among those that srun started on this machine: each has
                devices of its own, as far as there are enough.

        Raises:
            PrunekitError: no run can begin, or a signal asked for a stop.
        """
        if not dry_run:
            check_free(self.folder, self.whole, self.shard)
        own = Workers(jobs, first=local * jobs)
        with StopSignals(), ExitStack() as timing, own as workers:
            # emptied when the workers are gone, also where that is before their time
            place = timing.enter_context(scratch())
            times = estimate(self.left, workers, place) if self.left else None
            timing.close()
            self.show(times, jobs)
            return 0 if dry_run else self.run(workers, times, jobs)

    def on_slurm(self, pack: int, settings: Sequence[str], *, dry_run: bool = False) -> int:
        """Show the plan and run it in Slurm jobs of `pack` runs; the exit code.

        Raises:
            PrunekitError: there is no submitit or no Slurm, or a signal asked for a stop.
        """
        executor = None if dry_run else slurm_executor(self.folder, settings)
        self.show(None, 1, NO_ESTIMATE)
        return 0 if executor is None else self.run(Jobs(executor, pack), None, 1)

    def show(self, times: Estimate | None, jobs: int, *notes: str) -> None:
        """Print the plan."""
        notes = (*self.request.notes, *notes)
        if self.shard:
            count, all_of_it = len(unique_cells(self.plan)), len(unique_cells(self.whole))
            notes = (*notes, f"shard {self.shard}: {count} of the {all_of_it} runs of the sweep")
        if count := left_out(self.whole, self.folder):
            notes = (*notes, f"{count} runs of an earlier plan are not in this one: they are kept")
        if self.plan.recipe_format < RECIPE_FORMAT:
            notes = (*notes, "begun by an earlier version: it keeps the defaults of that one")
        self.screen.print(plan_view(self.plan, self.states, times, jobs, notes))

    def run(self, executor: Executor, times: Estimate | None, jobs: int) -> int:
        """Run what is left and tell; the exit code."""
        progress = SweepProgress(self.screen, self.folder, len(self.left), times, jobs)
        held = prepared(
            self.whole,
            self.folder,
            self.request,
            retry_failed=self.retry_failed,
            part=self.plan,
            shard=self.shard,
        )
        with held:
            outcome = run_plan(self.plan, self.folder, executor, progress.tell, self.draw)
        self.screen.print(outcome_view(self.folder, outcome, times, jobs))
        return outcome.exit_code
