"""How long calls take. Imports torch only for a device that works on its own."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WIDEST = 1.25
"""Of the ends of a ratio's interval, one over the other: beyond it the ratio tells nothing."""


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
    if device is None or device.type == "cpu":  # whose calls return when they are done
        began = clock()
        call()
        return clock() - began
    from prunekit.foundation.devices import wait_for

    wait_for(device)
    began = clock()
    call()
    wait_for(device)
    return clock() - began


def mean_seconds(seconds: Sequence[float], warm_up: int) -> float:
    """Mean of calls in a row without the first `warm_up`; of as few, without the first."""
    counted = seconds[warm_up:] or seconds[1:] or seconds
    return sum(counted) / len(counted)


def pass_seconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds that a forward pass takes: on an accelerator between two events there, else here.

    Args:
        call: gives the device its work.
        device: where that is done; None = the CPU.
    """
    if device is None or device.type == "cpu":
        return call_seconds(call)
    import torch

    from prunekit.foundation.devices import has_events, wait_for

    if not has_events(device):
        return call_seconds(call, device)
    began, ended = (torch.Event(device, enable_timing=True) for _ in range(2))
    with torch.accelerator.device_index(device.index):
        wait_for(device)
        began.record()
        call()
        ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median ratio, and the interval that holds it with 95 % confidence."""

    median: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """How far the ratio of a thing to itself may be from 1."""
        return max(abs(self.low - 1), abs(self.high - 1))


def paired_ratio(own: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of what was measured in turn, one over the other of the same round."""
    ratios = sorted(a / b for a, b in zip(own, base, strict=True))
    # of n sorted values, these ranks hold the median with 95 % (a sign test, normal tail)
    outside = max(0, int((len(ratios) - 1.96 * len(ratios) ** 0.5) / 2))
    return Ratio(statistics.median(ratios), ratios[outside], ratios[-1 - outside])


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage is collected meanwhile: it would hit one of several that are timed."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


WARM_UP, FEWEST_ROUNDS, MOST_ROUNDS = 2, 2, 20


def take_turns(
    variants: Mapping[str, Callable[[], float]], seconds: float
) -> dict[str, list[float]]:
    """Measure each variant once a round, forward and backward by turns, as long as time allows.

    Args:
        variants: each does its work once and returns the seconds that count.
        seconds: after so many no round begins, once `FEWEST_ROUNDS` count.

    Returns:
        Of each variant, the seconds of up to `MOST_ROUNDS` rounds; the first `WARM_UP` are left
        out, where time is short the first alone.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    names, rounds, warming = list(variants), 0, WARM_UP
    deadline = time.perf_counter() + seconds
    with no_collection():
        while rounds < MOST_ROUNDS:
            late = time.perf_counter() > deadline
            if late and rounds >= FEWEST_ROUNDS:
                break
            if warming and (not late or warming == WARM_UP):
                warming -= 1
                for name in names:
                    variants[name]()
                continue
            for name in names if rounds % 2 else names[::-1]:
                found[name].append(variants[name]())
            rounds += 1
    return found
