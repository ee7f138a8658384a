"""Work shared out over processes, its results in order and few of them waiting."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TypeVar

from prunekit.errors import ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 4
"""Tasks a process that are given out or wait to be taken."""
WORTH_PROCESSES = 1_000
"""Images; fewer are done before other processes have begun."""


def results_in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int
) -> Generator[Result]:
    """The result of each task, in the order of the tasks.

    Args:
        work: a function of a module.
        tasks: are taken as there is room for them.
        jobs: processes; 1 = this one.

    Raises:
        ResourceError: a process ended. What `work` raises passes through.
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            with _without_signals():
                waiting.append(pool.submit(work, task))
            if len(waiting) >= AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"one of {jobs} processes was ended from outside: most often for a lack of memory: set "
            "a lower --jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_signals() -> Iterator[None]:
    """Processes that start meanwhile hear no Ctrl-C before `_begin`; this one hears it after."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Leave signals of the terminal to the parent, and end where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, be it long ago.

    That is told by a pipe. The parent that the system knows may be a server that forks, or already
    another one where the first was killed while this one was starting.
    """
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worth(jobs: int, images: int) -> int:
    """At most `jobs` processes for so many images: one where they are few."""
    return jobs if images > WORTH_PROCESSES else 1
