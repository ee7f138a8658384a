"""Signals that ask a sweep to stop."""

from __future__ import annotations

import signal
import time
from types import FrameType

SAME_REQUEST = 1.0
"""Seconds in which signals are one request."""


class Requests:
    """How often a signal asked for a stop while the block ran."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.times, self._last = 0, 0.0

    def __enter__(self) -> Requests:
        self._before = {name: signal.signal(name, self._ask) for name in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.times or now - self._last > SAME_REQUEST:
            self.times, self._last = self.times + 1, now
