"""How long calls take. Imports torch only for a device that works on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def wait_for(device: torch.device) -> None:
    """Return when a GPU has done what it was given; a CPU has, when a call returns."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def call_seconds(
    call: Callable[[], object],
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that a call takes.

    Args:
        call: what is timed.
        device: waited for before and after, where it is given.
        clock: `time.process_time` leaves out what a process waits for.
    """
    if device is not None:
        wait_for(device)
    began = clock()
    call()
    if device is not None:
        wait_for(device)
    return clock() - began


def mean_seconds(seconds: Sequence[float], warm_up: int) -> float:
    """Mean of calls in a row without the first `warm_up`; of as few, without the first."""
    counted = seconds[warm_up:] or seconds[1:] or seconds
    return sum(counted) / len(counted)
