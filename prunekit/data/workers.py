"""Work shared out over processes, its results in order and few of them waiting."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 4
"""Tasks a process that are given out or wait to be taken."""
LOOK_SECONDS = 1.0
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
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) >= AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Leave signals of the terminal to the parent, and end where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worth(jobs: int, images: int) -> int:
    """At most `jobs` processes for so many images: one where they are few."""
    return jobs if images > WORTH_PROCESSES else 1
