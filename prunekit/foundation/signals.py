"""Signals that ask for a stop. Torch-free."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_REQUEST = 1.0
"""Seconds in which signals are one request: a terminal signals each process, and a launcher passes
its own on."""


class StopSignals:
    """How often a signal asked for a stop while the block ran.

    Args:
        again: called at each request after the first, in the signal's handler.
    """

    def __init__(self, again: Callable[[], None] | None = None) -> None:
        self.times, self._last, self._again = 0, 0.0, again

    def __enter__(self) -> StopSignals:
        self._before = {name: signal.signal(name, self._ask) for name in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.times and now - self._last <= SAME_REQUEST:
            return
        self.times, self._last = self.times + 1, now
        if self.times > 1 and self._again is not None:
            self._again()
