"""A run that is told to stop: after the step in hand, on all ranks at the same one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prunekit.train.distributed import ProcessGroup

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EVERY = 8
"""Steps from one question to the other ranks to the next."""
SAME_REQUEST = 1.0
"""Seconds in which signals are one request: a terminal signals each process, and a launcher passes
its own on."""


class Stopping:
    """Whether this run is to stop."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self._asked_at: float | None = None

    def agreed(self, step: int) -> bool:
        """Whether all ranks stop at this step; asking costs, so several ask every few steps."""
        if self.group.world > 1 and step % EVERY:
            return False
        return self.group.any(self._asked_at is not None)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGHUP ask for a stop; a second one interrupts at once."""
        before = {name: signal.signal(name, self._ask) for name in SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at > SAME_REQUEST:
            raise KeyboardInterrupt
