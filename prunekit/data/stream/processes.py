"""Processes that read: started clean, deaf to signals that are meant for the run, gone with it.

A fork of the process that trains would take along its threads, its locks and its accelerator, none
of which survive one. So each is forked from a server that has only imported what reads; where there
is no such server, it is a fresh interpreter. The script of the user is not run in them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess
from types import ModuleType, TracebackType
from typing import Any

from prunekit.data.workers import end_with_parent
from prunekit.foundation.signals import SIGNALS

SERVED = "forkserver" in multiprocessing.get_all_start_methods()
M_MMAP_THRESHOLD = -3
"""Of malloc.h."""
LARGE = 2**22
"""Bytes."""
CUT_OFF = (OSError, EOFError)
"""What is wrong with an image is handed over: these say that the process that trains is gone, or is
about to tell in one line that this one is."""
PRELOADED = ["prunekit.data.stream.in_server"]


@contextmanager
def _without_main() -> Iterator[None]:
    """What starts meanwhile does not run the script of the user, who may not have guarded it."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


if SERVED:
    from multiprocessing import forkserver, popen_forkserver
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    _SERVER = forkserver.ForkServer()
    """Its own: that of the module may serve the user, with other modules and other signals."""
    _SERVER.set_forkserver_preload(PRELOADED)

    class _Popen(popen_forkserver.Popen):
        def _launch(self, process_obj: Any) -> None:
            before = forkserver.connect_to_new_process
            forkserver.connect_to_new_process = _SERVER.connect_to_new_process
            try:
                super()._launch(process_obj)  # type: ignore[misc]
            finally:
                forkserver.connect_to_new_process = before

        def terminate(self) -> None:
            """End it at once, as it is deaf: also called where the interpreter ends and waits."""
            self.kill()

    class _ServedProcess(ForkServerProcess):
        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            return _Popen(process_obj)

    _Context: Any = ForkServerContext
    _Process: Any = _ServedProcess
else:
    _Context, _Process = SpawnContext, SpawnProcess


class _Reading(_Process):  # type: ignore[misc]
    """A process that reads."""

    def start(self) -> None:
        """Start it."""
        with _without_main():
            super().start()

    def run(self) -> None:
        """What it does: as long as the process that trains is there."""
        end_with_parent()  # a loader's own watch is on the server, which waits for those it forked
        sys.excepthook = _tell  # which threads that hand tensors over call as well
        try:
            super().run()
        except (AssertionError, *CUT_OFF):  # the first where the server is gone
            sys.exit(1)

    def terminate(self) -> None:
        """End it at once: it is deaf to what asks it to end."""
        self.kill()


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, CUT_OFF):
        sys.__excepthook__(kind, error, trace)


class _Flag:
    """An event that nobody holds.

    To look at one of `multiprocessing` takes its lock for a moment. A process that is killed then,
    for its memory, takes the lock along, and a loader would wait for it for good.
    """

    def __init__(self, byte: Any) -> None:
        self._byte = byte

    def set(self) -> None:
        """Tell all processes."""
        self._byte.value = True

    def is_set(self) -> bool:
        """Whether it was told."""
        return bool(self._byte.value)


class _ReadingContext(_Context):  # type: ignore[misc]
    """What a loader makes its processes by."""

    Process = _Reading

    def Event(self) -> _Flag:
        """What a loader tells its processes by that they are to end."""
        return _Flag(self.RawValue(ctypes.c_bool, False))


def context() -> BaseContext:
    """What a loader makes its processes by."""
    found: BaseContext = _ReadingContext()
    return found


def make_ready() -> None:
    """Let the server import, while the caller has other things to do."""
    if SERVED:
        with _without_main():
            _SERVER.ensure_running()


def give_back() -> None:
    """Let glibc return large tensors to the system when they are freed, batch by batch.

    It raises the size from which it does so, to 32 MB, whenever one is freed; what is below lies in
    a heap, under whatever else is there, and over an epoch of batches that grows.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def be_deaf(_: int = 0) -> None:
    """Ignore what asks for a stop.

    A terminal and a batch system signal every process of a run, and the one that trains finishes
    its step first, for which it needs those that read.
    """
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)
