"""How long a run has trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prunekit.foundation.devices import wait_for


class Stopwatch:
    """Seconds of training; evaluation and saving are none."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._began = device, 0.0, time.perf_counter()

    def start(self) -> None:
        """Count from here."""
        self._began = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count up to here, and go on after the block."""
        wait_for(self.device)  # else steps under way would count as evaluation
        self.seconds += time.perf_counter() - self._began
        try:
            yield
        finally:
            self.start()
