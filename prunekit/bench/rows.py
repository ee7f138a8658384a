"""Lines of a benchmark, and whether each meets its goal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prunekit.bench.rounds import Measured, Ratio

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
            goal="" if goal is None else f"<= {goal:g} x",
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
