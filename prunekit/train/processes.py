"""Processes that this one starts for a run, as torchrun starts them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import LostPeerError, PrunekitError, ResourceError, StopRequestedError
from prunekit.foundation.files import write_json, write_text
from prunekit.foundation.ranks import place
from prunekit.foundation.signals import how_ended
from prunekit.foundation.text import printable
from prunekit.foundation.unfinished import scratch
from prunekit.registry.faults import authors_traceback
from prunekit.registry.own_code import CodeFile, current_code, use_code
from prunekit.train.going_on import status_of
from prunekit.train.lost import go_on_with

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig


@dataclass(slots=True)
class Started:
    """What a started process may tell the one that started it."""

    folder: Path
    too_late: bool = False
    """Whether this process was asked to stop when there was nothing left to stop."""

    def runs_in(self, run_dir: Path) -> None:
        """The run has a directory: where to go on, should no process be left to say so."""
        write_text(self.folder / "run_dir", str(run_dir))

    def failed(self, error: Exception) -> int:
        """This process ends with an error; its exit code."""
        rank, known = place().rank, isinstance(error, PrunekitError)
        code = error.exit_code if isinstance(error, PrunekitError) else PrunekitError.exit_code
        told = str(error) if known else f"process {rank}: {type(error).__name__}: {error}"
        lost = isinstance(error, LostPeerError)
        failure = {"code": code, "message": told, "time": time.time(), "lost": lost}
        write_json(self.folder / f"rank-{rank}.json", failure)
        return code

    def failures(self) -> list[dict[str, Any]]:
        """Of all processes, the first one first; what follows from the loss of another is last."""
        found = [json.loads(path.read_text("utf-8")) for path in self.folder.glob("rank-*.json")]
        return sorted(found, key=lambda failure: (failure["lost"], failure["time"]))

    def finished(self) -> Path | None:
        """The run, if it was done before a process was lost: then it is no failure."""
        run_dir = self.run_dir()
        others = any(not failure["lost"] for failure in self.failures())
        return run_dir if run_dir and not others and status_of(run_dir) == "done" else None

    def run_dir(self) -> Path | None:
        """Where the run is, if it got that far."""
        path = self.folder / "run_dir"
        return Path(path.read_text("utf-8")) if path.is_file() else None


Work = Callable[..., str]
"""A function of a module, of a `Started` and what `start_processes` is given."""


def start_processes(nproc: int, threads: int, work: Work, *args: str) -> str:
    """Run `work(started, *args)` in each of `nproc` processes, started as torchrun does.

    torchrun itself would turn every exit code into 1. Each has the file of code that is in use.

    Args:
        nproc: processes on this machine.
        threads: CPU threads of each, where the environment does not say.
        work: a function of a module, which each process imports.
        args: what it is given.

    Returns:
        What the first rank returned: the directory of the run.

    Raises:
        PrunekitError: the first error of a rank, or that one ended without a word.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _quiet_torch()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with scratch() as folder:
        started = Started(folder)
        try:
            results: dict[int, str] = elastic_launch(_launch_config(nproc, folder), _worker)(
                started, current_code(), work, *args
            )
        except (ChildFailedError, SignalException) as error:
            if run_dir := started.finished():
                return str(run_dir)
            if isinstance(error, SignalException):  # passed on to the ranks
                raise told_first(started) or stopped_before(started.run_dir()) from error
            rank, failure = error.get_first_failure()
            raise told_first(started) or _ended(started, rank, failure.exitcode) from error
    return results[0]


def _quiet_torch() -> None:
    """What torch logs of processes that end is told here, in one line."""
    for name in tuple(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing.spawn")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _launch_config(nproc: int, folder: Path) -> LaunchConfig:
    """Processes of this machine alone, none of which is started again."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=f"{folder}/logs"),  # else one that stays for good
    )


def _worker(started: Started, code: CodeFile | None, work: Work, *args: str) -> str:
    try:
        with use_code(code):
            done = work(started, *args)
    except Exception as error:
        sys.stderr.write(printable(authors_traceback(error)))  # nobody else will know the place
        sys.exit(started.failed(error))
    if started.too_late:  # torch would wait for others that are gone, and end this one after 30 s
        signal.raise_signal(signal.SIGTERM)
    return done


def told_first(started: Started) -> PrunekitError | None:
    """The error of the first rank that knew why it ended; None = none did."""
    first = next(iter(started.failures()), None)
    if first is None or first["lost"]:  # it only knows that another is gone
        return None
    kinds = {kind.exit_code: kind for kind in PrunekitError.__subclasses__()}
    return kinds.get(first["code"], PrunekitError)(first["message"])


def stopped_before(run_dir: Path | None) -> StopRequestedError:
    """A signal ended the ranks where none of them could say so."""
    if run_dir is None:
        return StopRequestedError("stopped before the run began: the same command begins it")
    return StopRequestedError(f"stopped: {go_on_with(run_dir)}")


def _ended(started: Started, rank: int, exit_code: int) -> PrunekitError:
    lost = [one["message"] for one in started.failures() if one["lost"]]
    if lost and exit_code == LostPeerError.exit_code:  # it was found before the one that is gone
        return LostPeerError(lost[0])
    run_dir, how = started.run_dir(), f"process {rank} {how_ended(exit_code)}"
    if run_dir is None:
        return ResourceError(f"{how}, before the run began")
    return LostPeerError(f"{how}: {go_on_with(run_dir)}")
