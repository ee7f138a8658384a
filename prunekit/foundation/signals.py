"""Signals that ask for a stop. Torch-free."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import ClassVar

from prunekit.errors import StopRequestedError

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
NAMES = ("SIGTERM", "SIGINT", "SIGHUP")
SIGNALS = tuple(
    getattr(signal, name) for name in NAMES if hasattr(signal, name)
)  # Windows lacks one
SAME_REQUEST = 1.0
"""Seconds in which signals are one request: a terminal signals each process, and a launcher passes
its own on."""


def ended_by_stop(exit_code: int | None) -> bool:
    """Whether a process ended of a request to stop that it was not ready to hear."""
    return exit_code is not None and -exit_code in SIGNALS


def how_ended(exit_code: int | None) -> str:
    """How a process ended, as a sentence goes on after its name."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        reason = ": the memory may not have been enough" if name == "SIGKILL" else ""
        return f"was ended by {name}{reason}"
    return f"ended with exit code {exit_code}"


def _outlast(seconds: float, after: Handler) -> Handler:
    """A handler that does nothing for so long, and then hands over to that of before."""
    until = time.monotonic() + seconds

    def wait(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() > until:
            signal.signal(signum, after)
            signal.raise_signal(signum)

    return wait


class StopSignals:
    """How often a signal asked for a stop while the block ran.

    A handler only counts: an exception out of one would come up at any line, also where it looks
    like a fault of what runs there. Who can stop asks where it can. From the second request on
    signals do again what they did before the block, so that a third is obeyed by what never asks.
    A block inside another of this process begins with the count of that, and adds to it. A signal
    that was ignored before, as by nohup, stays so.
    """

    _innermost: ClassVar[StopSignals | None] = None
    leaves_nothing: ClassVar[bool] = False
    """Whether a request that it no longer counts finds nothing that was begun."""

    def __init__(self) -> None:
        self.times, self._last = 0, 0.0
        self._before: dict[signal.Signals, Handler] = {}
        """What each signal did before the block; empty = it does that again."""
        self._outer: StopSignals | None = None
        self.outlasted = 0.0
        """Seconds after the block for which SIGTERM ends nothing: who sends it because of another
        process must not cut short what this one tells."""

    def __enter__(self) -> StopSignals:
        self._outer = StopSignals._innermost
        if self._outer is not None:
            self.times, self._last = self._outer.times, self._outer._last
        if self.times < 2:
            taken = [name for name in SIGNALS if self._takes(signal.getsignal(name))]
            self._before = {name: signal.signal(name, self._ask) for name in taken}
        StopSignals._innermost = self
        return self

    def __exit__(self, *_: object) -> None:
        StopSignals._innermost = self._outer
        if self._outer is not None:
            self._outer.times, self._outer._last = self.times, self._last
        if self.outlasted:
            before = self._before.get(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            self._before[signal.SIGTERM] = _outlast(self.outlasted, before)
        self._give_back()

    @classmethod
    def innermost(cls) -> StopSignals | None:
        """The block that counts now; None = signals do what they do in any program."""
        return StopSignals._innermost

    def _takes(self, handler: Handler) -> bool:
        """Whether a signal that does this is counted; None = what a library in C does."""
        return handler not in (None, signal.SIG_IGN)

    def _give_back(self) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        self._before = {}

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.times and now - self._last <= SAME_REQUEST:
            return
        self.times, self._last = self.times + 1, now
        if self.times > 1:
            self._give_back_all()

    def _give_back_all(self) -> None:
        block: StopSignals | None = self
        while block is not None:  # from the inside out, so that what was before all of them stays
            block._give_back()
            block = block._outer


class Ending:
    """What a signal does that ends the process: it says so, with the exit code of a stop.

    A run or sweep that was asked twice before has told what there is to tell, and ends as by
    default; so does a process that was forked from this one.
    """

    first: ClassVar[Callable[[], None]] = staticmethod(lambda: None)
    """What is done before: takes away what is half-written."""

    def __init__(self, says_so: bool = True) -> None:
        self._process, self.says_so = os.getpid(), says_so

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler; does not return."""
        held = StopSignals.innermost()
        if os.getpid() != self._process or not (held is None or held.leaves_nothing):
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        Ending.first()
        line = f"Stopped by {signal.Signals(signum).name}: {AS_IT_WAS}\n" * self.says_so
        with suppress(OSError):  # a terminal that has closed takes no line
            os.write(2, line.encode())
        os._exit(StopRequestedError.exit_code)


AS_IT_WAS = "nothing half-written is left, and the same command begins again"


@contextmanager
def ended_in_a_line(*, says_so: bool = True) -> Iterator[None]:
    """A block that SIGTERM and SIGHUP end at once where nothing holds them, with one line and 75.

    For a command: by default they end it without a word. Nothing is raised, which could come up at
    any line. Of SIGINT Python makes a KeyboardInterrupt; a signal that is ignored stays so.

    Args:
        says_so: whether the line is said; another process may speak for all of a run.
    """
    ending, mine = Ending(says_so), threading.current_thread() is threading.main_thread()
    asked = [name for name in SIGNALS if mine and signal.getsignal(name) is signal.SIG_DFL]
    for name in asked:
        signal.signal(name, ending)
    try:
        yield
    finally:
        for name in asked:
            if signal.getsignal(name) is ending:
                signal.signal(name, signal.SIG_DFL)


@contextmanager
def ended_by_default() -> Iterator[None]:
    """A block within `ended_in_a_line` that waits in a library, where no handler would run."""
    found = {name: signal.getsignal(name) for name in SIGNALS}
    endings = {name: handler for name, handler in found.items() if isinstance(handler, Ending)}
    if threading.current_thread() is not threading.main_thread():
        endings = {}
    for name in endings:
        signal.signal(name, signal.SIG_DFL)
    try:
        yield
    finally:
        for name, handler in endings.items():
            signal.signal(name, handler)
