"""Ranks as threads, one of them running at a time."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from prunekit.testing.fault import ConformanceError

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a rank waits for another."""


class Meeting:
    """Where ranks exchange values. Between meetings a rank runs alone: as threads they share the
    global switches of torch, which as processes they would not.
    """

    def __init__(self, world: int) -> None:
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(world)
        self._values: defaultdict[int, dict[int, tuple[str, Any]]] = defaultdict(dict)

    def exchange(self, rank: int, meeting: int, what: str, value: Any) -> list[Any]:
        """The values of all ranks, by rank; the caller holds `turn`.

        Raises:
            ConformanceError: another rank exchanges something else.
        """
        values = self._values[meeting]
        values[rank] = (what, value)
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.turn.acquire()
        if len({name for name, _ in values.values()}) > 1:
            places = ", ".join(f"rank {r} is at {values[r][0]}" for r in sorted(values))
            raise ConformanceError(f"ranks part ways, and would wait for ever: {places}")
        return [values[r][1] for r in sorted(values)]


@dataclass
class ThreadRank:
    """One of them; `Ranks` of its pruner."""

    rank: int
    world: int
    meeting: Meeting
    meetings: int = 0

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over the ranks, a new tensor."""
        values = self._exchange(f"mean_over_ranks of shape {tuple(x.shape)}", x.detach().clone())
        total: Tensor = sum(values[1:], values[0])
        return total / self.world

    def all_equal(self, digest: bytes) -> bool:
        """Whether every rank has this digest."""
        return len(set(self._exchange("the comparison of masks", digest))) == 1

    def of_the_first(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The values of rank 0, as DDP broadcasts buffers before a forward pass."""
        copies = {name: value.clone() for name, value in values.items()}
        first: Mapping[str, Tensor] = self._exchange("the forward pass", copies)[0]
        return first

    def leave(self) -> None:
        """The end of the run."""
        self._exchange("the end of training", None)

    def _exchange(self, what: str, value: Any) -> list[Any]:
        self.meetings += 1
        return self.meeting.exchange(self.rank, self.meetings, what, value)


def on_ranks(world: int, job: Callable[[ThreadRank], T]) -> list[T]:
    """Run a job on each rank; the results by rank, or the error of the first that failed."""
    meeting = Meeting(world)

    def run(rank: int) -> T:
        with meeting.turn:
            try:
                own = ThreadRank(rank, world, meeting)
                done = job(own)
                own.leave()
                return done
            except BaseException:
                meeting.barrier.abort()
                raise

    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(run, rank) for rank in range(world)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
