"""Signals that ask for a stop. Torch-free."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_REQUEST = 1.0
"""Seconds in which signals are one request: a terminal signals each process, and a launcher passes
its own on."""


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

    Args:
        again: called at each request after the first, in the signal's handler.
    """

    def __init__(self, again: Callable[[], None] | None = None) -> None:
        self.times, self._last, self._again = 0, 0.0, again
        self.outlasted = 0.0
        """Seconds after the block for which SIGTERM ends nothing: who sends it because of another
        process must not cut short what this one tells."""

    def __enter__(self) -> StopSignals:
        self._before = {name: signal.signal(name, self._ask) for name in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self.outlasted:
            self._before[signal.SIGTERM] = _outlast(self.outlasted, self._before[signal.SIGTERM])
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.times and now - self._last <= SAME_REQUEST:
            return
        self.times, self._last = self.times + 1, now
        if self.times > 1 and self._again is not None:
            self._again()
