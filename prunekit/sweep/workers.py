"""Processes that live on from task to task, and tell when one of them dies."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from prunekit.errors import PrunekitError
from prunekit.foundation.ranks import leave_world
from prunekit.foundation.signals import StopSignals, ended_by_stop, how_ended
from prunekit.foundation.system import leave_terminal
from prunekit.registry.own_code import CodeFile, current_code, use_code


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    local: int
    connection: Connection
    task: Task | None = None


class Workers:
    """At most `count` processes, each started when there is a task for it; an `Executor`.

    A process imports torch once, and runs the file of code that is in use here. One that dies
    (killed for its memory, a segmentation fault) takes its own task with it, and another takes its
    place. If this process is killed, they end as well.

    Each has a number of its own from `first` on, by which it takes its device: as many devices as
    there are, and then round again. Those are the ones that this process sees, so what
    CUDA_VISIBLE_DEVICES leaves out stays out.
    """

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; one that is busy is killed."""
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    @property
    def room(self) -> int:
        """Tasks that can begin now."""
        return self.count - self.busy

    @property
    def busy(self) -> int:
        """Tasks at work."""
        return sum(worker.task is not None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Begin a task; there must be room."""
        worker = next((w for w in self._workers if w.task is None), None) or self._start()
        worker.task = task
        with suppress(OSError):  # a process that is gone is found by `finished`
            worker.connection.send(task)

    def finished(self, timeout: float) -> list[TaskOutcome]:
        """Wait until a task ends, or for `timeout` seconds."""
        at_work = [worker for worker in self._workers if worker.task is not None]
        ready = wait([worker.connection for worker in at_work], timeout)
        return [self._take(worker) for worker in at_work if worker.connection in ready]

    def stop(self) -> None:
        """Ask the tasks at work to save and end."""
        for worker in self._workers:
            if worker.task is not None:
                worker.process.terminate()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        taken = {worker.local for worker in self._workers}
        local = next(n for n in itertools.count(self.first) if n not in taken)
        arguments = (theirs, local, current_code())
        process = context.Process(target=_serve, args=arguments, daemon=False)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, local, ours))
        return self._workers[-1]

    def _take(self, worker: _Worker) -> TaskOutcome:
        task, worker.task = worker.task, None
        assert task is not None
        try:
            value, error = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._workers.remove(worker)
            worker.connection.close()
            code = worker.process.exitcode
            return TaskOutcome(
                task, died=f"its process {how_ended(code)}", stopped=ended_by_stop(code)
            )
        return TaskOutcome(task, value, error)


# ---- in the worker


def _serve(connection: Connection, local: int, code: CodeFile | None = None) -> None:
    """Do tasks until the other end closes."""
    leave_world(local)
    leave_terminal()  # Ctrl-C is for the parent, which asks once
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the recipe sets its own
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if code is not None:
        _print_to(None)  # this terminal was shown what it prints
    with StopSignals() as signals, use_code(code), suppress(EOFError, OSError):
        while True:
            task: Task = connection.recv()
            connection.send((None, None) if signals.times else _answer(task))


def _answer(task: Task) -> tuple[Any, Exception | None]:
    _print_to(task.log)
    try:
        return task.call(*task.arguments), None
    except PrunekitError as error:
        return None, error
    except Exception as error:
        return None, RuntimeError(f"{type(error).__name__}: {error}")


def _print_to(log: Path | None) -> None:
    """Both streams, also what native code writes."""
    target = os.devnull if log is None else str(log)
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


POLL_SECONDS = 0.2
"""How long to wait for a task to end before looking at signals again."""


@dataclass(frozen=True, slots=True)
class Task:
    """A function of a module and its arguments."""

    tag: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path | None = None
    """Takes what it prints; None = nowhere."""


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What became of a task."""

    task: Task
    value: Any = None
    error: Exception | None = None
    died: str | None = None
    """How the process ended, where it did."""
    stopped: bool = False
    """Whether that was of a signal which asks for a stop: no fault of the task."""


class Executor(Protocol):
    """Where tasks are done."""

    @property
    def room(self) -> int:
        """Tasks that can begin now."""

    @property
    def busy(self) -> int:
        """Tasks at work."""

    def submit(self, task: Task) -> None:
        """Begin a task."""

    def finished(self, timeout: float) -> list[TaskOutcome]:
        """Wait until a task ends, or for `timeout` seconds."""

    def stop(self) -> None:
        """Ask the tasks at work to save and end."""
