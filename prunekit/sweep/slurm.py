"""The runs of a sweep as Slurm jobs, through submitit (an extra)."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from prunekit.errors import StopRequestedError, UsageError
from prunekit.recipe.document import scalar
from prunekit.registry.own_code import CodeFile, current_code, use_code
from prunekit.sweep.workers import Task, TaskOutcome

if TYPE_CHECKING:
    import submitit


def slurm_executor(folder: Path, settings: Sequence[str]) -> submitit.Executor:
    """A submitit executor for Slurm.

    Args:
        folder: the sweep directory; job files go to `slurm` in it, which only its owner may read.
        settings: `key=value` each: a parameter of submitit's SlurmExecutor (`partition`, `time` in
            minutes, `mem`, ...) or any other option of sbatch (`gpus`, `account`, ...).

    Raises:
        UsageError: submitit is not installed, there is no Slurm here, a setting has no `=`, or one
            asks for several processes a run.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UsageError(
            "--slurm needs submitit: install it with pip install 'prunekit[slurm]'"
        ) from None
    own, others = _split(settings, SlurmExecutor._valid_parameters())
    if SlurmExecutor.affinity() < 0:
        raise UsageError("--slurm: there is no srun here: run this where Slurm is")
    executor = SlurmExecutor(folder=private(folder))
    executor.update_parameters(**own, additional_parameters=others)
    return executor


def private(folder: Path) -> Path:
    """`slurm` in a sweep directory: its files are unpickled by the jobs."""
    jobs = folder / "slurm"
    jobs.mkdir(parents=True, exist_ok=True)
    jobs.chmod(0o700)
    return jobs


def _split(settings: Sequence[str], known: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    own: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--slurm-set {text!r}: write key=value, such as partition=gpu")
        name = key.replace("-", "_")
        if name in SEVERAL and value != "1":
            raise UsageError(
                f"--slurm-set {text}: a run of a sweep is one process: --pack takes several runs a "
                "job, and srun starts several processes for one recipe"
            )
        (own if name in known else others)[name if name in known else key] = scalar(value)
    return own, others


SEVERAL = ("nodes", "ntasks", "tasks_per_node", "ntasks_per_node", "ntasks_per_gpu")
"""Options that would start a pack once more for each task."""


class Jobs:
    """Tasks in packs, one pack a job; an `Executor`."""

    def __init__(self, executor: submitit.Executor, pack: int = 1) -> None:
        self.executor, self.pack = executor, pack
        self._waiting: list[Task] = []
        self._jobs: dict[str, tuple[submitit.Job[Any], list[Task]]] = {}

    @property
    def room(self) -> int:
        """Slurm has its own queue."""
        return 1

    @property
    def busy(self) -> int:
        """Tasks that were submitted and have not ended."""
        return len(self._waiting) + sum(len(tasks) for _, tasks in self._jobs.values())

    def submit(self, task: Task) -> None:
        """Put a task into a pack; packs are sent off together."""
        self._waiting.append(task)

    def finished(self, timeout: float) -> list[TaskOutcome]:
        """Send packs off; the tasks of the jobs that ended."""
        while self._waiting:
            tasks, self._waiting = self._waiting[: self.pack], self._waiting[self.pack :]
            calls = [(task.call, task.arguments) for task in tasks]
            job = self.executor.submit(run_pack, calls, current_code())
            self._jobs[job.job_id] = (job, tasks)
        time.sleep(timeout)
        ended = [name for name, (job, _) in self._jobs.items() if job.done()]
        return [outcome for name in ended for outcome in _outcomes(*self._jobs.pop(name))]

    def stop(self) -> None:
        """Cancel the jobs: Slurm sends SIGTERM, and a run saves."""
        for job, _ in self._jobs.values():
            job.cancel(check=False)


def run_pack(calls: Sequence[tuple[Any, Sequence[Any]]], code: CodeFile | None = None) -> list[Any]:
    """In the job: one call after the other, until one was stopped, as by the end of its time.

    Args:
        calls: functions with their arguments.
        code: the file of code that was in use where the job was submitted.
    """
    signal.signal(signal.SIGUSR2, _warned)  # submitit's warning of the limit: its own gives up
    values = []
    with use_code(code):
        for call, arguments in calls:
            try:
                values.append(call(*arguments))
            except StopRequestedError:
                break
            if values[-1] is None:
                break
    return values


def _warned(signum: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)  # the run saves and ends


def _outcomes(job: submitit.Job[Any], tasks: Sequence[Task]) -> list[TaskOutcome]:
    problem = job.exception()
    if problem is None:
        values = job.result()
        rest = [None] * (len(tasks) - len(values))
        return [
            TaskOutcome(task, value) for task, value in zip(tasks, [*values, *rest], strict=True)
        ]
    lines = [line for line in str(problem).splitlines() if line.strip()]
    why = f"Slurm job {job.job_id} ended: {lines[0] if lines else type(problem).__name__}"
    return [TaskOutcome(task, died=f"{why} (see {job.paths.stderr})") for task in tasks]
