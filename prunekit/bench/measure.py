"""Variants measured in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from prunekit.foundation.devices import HOST, cpu_threads
from prunekit.foundation.timing import (
    Ratio,
    call_seconds,
    no_collection,
    paired_ratio,
    pass_seconds,
)

Variant = Callable[[], float]
"""Does its work once, and returns the seconds of it that count."""

AGAIN = "baseline again"
"""How far its ratio is from 1 is what the machine adds: the null."""
CALM = 0.01
"""A run is long enough when the baseline is this close to itself."""


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
        return paired_ratio(self.seconds[name], self.seconds[self.baseline])

    @property
    def null(self) -> Ratio:
        """The baseline over itself."""
        return self.ratio(AGAIN)


def in_turn(variants: Mapping[str, Variant], least: int, most: int) -> Measured:
    """Measure each variant once a round, in an order drawn anew for each.

    None of them is more often than others behind itself, with warm caches, or behind a large one.

    Args:
        variants: the baseline first, and under `AGAIN` a second copy of it.
        least: rounds, whatever they show; one before them warms up and does not count.
        most: rounds after which even a restless machine ends it.
    """
    names, draw = list(variants), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    measured = Measured(seconds, names[0])
    gc.collect()
    with no_collection():
        for variant in variants.values():
            variant()
        while measured.rounds < least or (measured.rounds < most and measured.null.error > CALM):
            for name in draw.sample(names, len(names)):
                seconds[name].append(variants[name]())
    return measured


def timed(work: Callable[[], Any], times: int = 1) -> Variant:
    """A variant all of whose work counts.

    On the CPU process time, which waiting does not add to; on another device the time between two
    events there.
    """
    device = _DEVICE.get()

    def repeat() -> None:
        for _ in range(times):
            work()

    if device != HOST:
        return lambda: pass_seconds(repeat, device) / times
    return lambda: call_seconds(repeat, clock=time.process_time) / times


_DEVICE: ContextVar[torch.device] = ContextVar("device", default=HOST)


@contextmanager
def measured_on(device: torch.device) -> Iterator[None]:
    """Models and tensors within are there: see `placed`."""
    before = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(before)


def device_measured() -> torch.device:
    """Where models and tensors are to be."""
    return _DEVICE.get()


Placed = TypeVar("Placed", Tensor, nn.Module)


def placed(one: Placed) -> Placed:
    """A tensor or a model where it is measured; it was made on the CPU, the same for all."""
    return one.to(_DEVICE.get())


def one_thread() -> AbstractContextManager[None]:
    """Compute on one thread: waiting for each other is counted as work on a busy machine."""
    return cpu_threads(1)


Verdict = Literal["met", "not met", "undecided", "below the null", "not judged", ""]
"""`undecided`: the goal lies in the interval of the ratio. `below the null`: it is no farther from
1 than the baseline is from itself. Empty: there is no goal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured, beside its baseline."""

    what: str
    ours: float
    baseline: float
    unit: str
    ratio: float | None
    """None where the baseline is nothing."""
    interval: tuple[float, float] | None = None
    """Of the ratio, 95 %; None where nothing is left to chance."""
    goal: str = ""
    verdict: Verdict = ""
    macs: float | None = None
    """Multiply-adds that are executed, over those of the baseline; None where none are counted."""


@dataclass(frozen=True, slots=True)
class Section:
    """Rows with one baseline."""

    name: str
    title: str
    baseline: str
    """What the baseline is."""
    rows: list[Row]
    rounds: int = 0
    null: float | None = None
    """How far the baseline was from itself; None where nothing is timed."""
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Timed:
    """Rows of a `Measured`."""

    measured: Measured
    judged: bool

    def rows(self, goals: dict[str, float]) -> list[Row]:
        """A row for each variant but the baseline; goals are ratios to it."""
        names = [name for name in self.measured.seconds if name != self.measured.baseline]
        return [self._row(name, goals.get(name)) for name in names]

    def _row(self, name: str, goal: float | None) -> Row:
        measured, ratio = self.measured, self.measured.ratio(name)
        return Row(
            what=name,
            ours=measured.median_ms(name),
            baseline=measured.median_ms(measured.baseline),
            unit="ms",
            ratio=ratio.median,
            interval=(ratio.low, ratio.high),
            goal="" if goal is None else f"<= {round(goal, 3):g} x",
            verdict=self._verdict(ratio, goal),
        )

    def _verdict(self, ratio: Ratio, goal: float | None) -> Verdict:
        if goal is None:
            return ""
        if not self.judged:
            return "not judged"
        if self.measured.null.error >= abs(goal - 1):
            return "below the null"
        if ratio.low <= goal < ratio.high:
            return "undecided"
        return "met" if ratio.high <= goal else "not met"


def in_bytes(
    what: str, ours: float, baseline: float, goal: float | None, *, over: bool, judged: bool
) -> Row:
    """A row of bytes a weight.

    Args:
        what: what holds them.
        ours: bytes a weight.
        baseline: bytes a weight of the baseline.
        goal: bytes a weight at most.
        over: whether the goal is on what `ours` has over the baseline, not on `ours`.
        judged: whether the goal holds for this size.
    """
    excess = ours - baseline if over else ours
    verdict: Verdict = ""
    if goal is not None:
        verdict = "not judged" if not judged else "met" if excess <= goal else "not met"
    return Row(
        what=what,
        ours=ours,
        baseline=baseline,
        unit="B/weight",
        ratio=ours / baseline if baseline else None,
        goal="" if goal is None else f"<= {'+' if over else ''}{goal:g} B",
        verdict=verdict,
    )
