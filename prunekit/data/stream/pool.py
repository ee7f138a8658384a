"""One set of workers that reads whatever is wanted next, ahead of it being asked for."""

from __future__ import annotations

import atexit
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from prunekit.data.stream.processes import be_deaf, context
from prunekit.data.stream.reader import Read, Reader, Request
from prunekit.errors import ResourceError


class _Wish:
    """Requests in their order, and what came of those that were read before their turn."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)
        self._following = next(self._requests, None)
        self.here: deque[Read] = deque()
        self.asked = 0
        """Requests that were taken and have not come."""

    def take(self) -> Request | None:
        """The next request; None = there are no more."""
        request = self._following
        if request is not None:
            self._following = next(self._requests, None)
            self.asked += 1
        return request

    @property
    def done(self) -> bool:
        """Whether nothing more can come."""
        return self._following is None and not self.asked and not self.here


class _Desk:
    """What is wanted, in the order in which it is to be read: the batch sampler of the loader."""

    def __init__(self) -> None:
        self.wishes: dict[int, _Wish] = {}
        """The highest number is read first."""
        self.waiting: int | None = None
        """The wish that somebody waits for: one before it may have no end."""
        self.asked: deque[int] = deque()
        """The wish of each request that was taken and has not come."""

    def __iter__(self) -> Iterator[Request]:
        while True:
            for number in self._in_turn():
                if (request := self.wishes[number].take()) is not None:
                    self.asked.append(number)
                    yield request
                    break
            else:
                return

    def _in_turn(self) -> list[int]:
        order = sorted(self.wishes, reverse=True)
        waiting = self.wishes.get(self.waiting) if self.waiting is not None else None
        if waiting is None or waiting.asked:  # nobody waits, or it is on its way
            return order
        return [*(n for n in order if n == self.waiting), *order]

    def came(self, read: Read) -> None:
        """Put what came first, which a loader keeps to, to its wish; unless that is closed."""
        wish = self.wishes.get(self.asked.popleft())
        if wish is not None:
            wish.asked -= 1
            wish.here.append(read)


class Pool:
    """Reads requests in their order, by processes of their own; with none, when they are asked for.

    Requests of training come without an end, and are read while there is nothing else to read. An
    evaluation goes before them: what was read for the training by then waits for its turn.

    Args:
        reader: reads one.
        workers: processes; 0 = this one reads.
        ahead: requests that are read before they are asked for.
        pin: whether tensors come in page-locked memory.
    """

    def __init__(self, reader: Reader, workers: int, ahead: int, *, pin: bool) -> None:
        self.reader, self.workers, self.ahead, self.pin = reader, workers, ahead, pin
        self._desk, self._count = _Desk(), 0
        self._loader: DataLoader[Read] | None = None
        self._coming: Iterator[Read] | None = None

    def read(self, requests: Iterable[Request], *, background: bool = False) -> Iterator[Read]:
        """What comes of some requests, one after the other; closing it drops the rest.

        Args:
            requests: may have no end where they are read in the background.
            background: only while nothing else is wanted.

        Raises:
            PrunekitError: an image cannot be read, or a process ended.
        """
        self._count += 1
        number = -self._count if background else self._count
        wish = self._desk.wishes[number] = _Wish(requests)
        try:
            while not wish.done:
                if not wish.here:
                    self._desk.waiting = number
                    self._desk.came(self._next())
                    continue
                read = wish.here.popleft()
                if read.error is not None:
                    raise read.error
                yield read
        finally:
            self._desk.wishes.pop(number, None)

    def close(self) -> None:
        """End the processes; a later `read` starts others."""
        self._coming = self._loader = None  # the last references: the loader ends its processes
        self._desk = _Desk()

    def _next(self) -> Read:
        """What a worker has read next.

        Raises:
            ResourceError: a process ended.
        """
        try:
            found = None if self._coming is None else next(self._coming, None)
            while found is None:  # it had come to the end of what was wanted then
                self._coming = iter(self._started())
                found = next(self._coming, None)
        except (RuntimeError, OSError, EOFError) as error:
            if not (self.workers and _of_a_process(error)):
                raise
            self.close()
            raise ResourceError(
                f"a process that reads images ended ({_in_a_line(error)}): most often for a lack "
                "of memory, or of shared memory (/dev/shm): set a lower data.workers, or give "
                "the machine or container more"
            ) from error
        return found

    def _started(self) -> DataLoader[Read]:
        if self._loader is None:
            options: dict[str, Any] = {
                "batch_sampler": self._desk,
                "num_workers": self.workers,
                "collate_fn": _as_it_is,
                "pin_memory": self.pin,
                "generator": torch.Generator(),  # that of the run is not to move
            }
            if self.workers:
                options |= {
                    "multiprocessing_context": context(),
                    "persistent_workers": True,
                    "prefetch_factor": max(1, -(-self.ahead // self.workers)),
                    "worker_init_fn": be_deaf,
                }
                atexit.register(_close, weakref.ref(self))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of more workers than cores: they are asked for
                self._loader = DataLoader(self.reader, **options)
        return self._loader


def _as_it_is(read: Read) -> Read:
    return read


def _close(pool: weakref.ref[Pool]) -> None:
    """Before the interpreter ends, which would wait for processes that are told nothing."""
    if (found := pool()) is not None:
        found.close()


def _of_a_process(error: Exception) -> bool:
    """Whether a process ended, or else something went wrong inside one.

    One that is killed is seen by the loader, or first by a connection to it that breaks off.
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return "in DataLoader worker process" not in str(error)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).removeprefix("DataLoader worker ").split())
