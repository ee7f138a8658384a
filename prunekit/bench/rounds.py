"""Variants measured in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Variant = Callable[[], float]
"""Does its work once, and returns the seconds of it that count."""

AGAIN = "baseline again"
"""How far its ratio is from 1 is what the machine adds: the null."""
CALM = 0.01
"""A run is long enough when the baseline is this close to itself."""


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


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each variant in each round; the first variant is the baseline."""

    seconds: Mapping[str, list[float]]
    baseline: str

    @property
    def rounds(self) -> int:
        """Rounds taken."""
        return len(self.seconds[self.baseline])

    def median_ms(self, name: str) -> float:
        """Milliseconds of a variant."""
        return statistics.median(self.seconds[name]) * 1e3

    def ratio(self, name: str) -> Ratio:
        """A variant over the baseline of the same round."""
        pairs = zip(self.seconds[name], self.seconds[self.baseline], strict=True)
        ratios = sorted(own / base for own, base in pairs)
        # of n sorted values, these ranks hold the median with 95 % (a sign test, normal tail)
        outside = max(0, int((len(ratios) - 1.96 * len(ratios) ** 0.5) / 2))
        return Ratio(statistics.median(ratios), ratios[outside], ratios[-1 - outside])

    @property
    def null(self) -> Ratio:
        """The baseline over itself."""
        return self.ratio(AGAIN)


def in_turn(variants: Mapping[str, Variant], least: int, most: int) -> Measured:
    """Measure each variant once a round, forward and backward by turns.

    Args:
        variants: the baseline first, and under `AGAIN` a second copy of it.
        least: rounds, whatever they show; one before them warms up and does not count.
        most: rounds after which even a restless machine ends it.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    measured = Measured(seconds, names[0])
    gc.collect()
    gc.disable()  # a collection would hit one variant and not the others
    try:
        for variant in variants.values():
            variant()
        while measured.rounds < least or (measured.rounds < most and measured.null.error > CALM):
            for name in names if measured.rounds % 2 else names[::-1]:
                seconds[name].append(variants[name]())
    finally:
        gc.enable()
    return measured


def timed(work: Callable[[], Any], times: int = 1) -> Variant:
    """A variant all of whose work counts: process time, which waiting does not add to."""

    def variant() -> float:
        begin = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - begin) / times

    return variant


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: waiting for each other is counted as work on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
