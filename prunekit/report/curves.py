"""A logged scalar over the run: mean and range over the seeds of each cell. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from prunekit.report.comparison import repeating
from prunekit.report.read import RunRecord, clean
from prunekit.report.settings import value_text
from prunekit.report.study import AxisLabels, Cell, Study

Columns = tuple[np.ndarray, np.ndarray]
PLAIN_LOSS = "cross_entropy"
"""Of a run from before there was a choice."""
TEACHER = ("teacher", "teacher_init")
LEVELS = 60
"""Points of a curve against another scalar."""


@dataclass(frozen=True)
class Curve:
    """Of one cell: at each x the mean, lowest and highest of its seeds."""

    arm: str
    labels: AxisLabels
    seeds: int
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def times(self, factor: float) -> Curve:
        """The curve in another unit."""
        return replace(
            self, mean=factor * self.mean, low=factor * self.low, high=factor * self.high
        )

    def thinned(self, most: int) -> Curve:
        """At most so many points, evenly apart, the first and the last among them."""
        if len(self.x) <= most:
            return self
        return self._at(np.linspace(0, len(self.x) - 1, most).round().astype(int))

    def held(self, last: float) -> Curve:
        """To x = `last`, as its last point is."""
        longer = self._at(np.append(np.arange(len(self.x)), -1))
        return replace(longer, x=np.append(self.x, max(last, self.x[-1])))

    def _at(self, points: np.ndarray) -> Curve:
        parts = {key: getattr(self, key)[points] for key in ("x", "mean", "low", "high")}
        return replace(self, **parts)


def curves(study: Study, key: str, against: str | None = None) -> list[Curve]:
    """A curve for each cell that logged the scalar; none of an arm that repeats another with one.

    Args:
        study: the runs.
        key: a key of `metrics.jsonl`.
        against: another; its levels take the place of the optimizer step.
    """
    found = [one for cell in study.cells if (one := curve(cell, key, against)) is not None]
    repeated = repeating(study, list(dict.fromkeys(one.arm for one in found)))
    return [one for one in found if one.arm not in repeated]


def by_loss(study: Study, found: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves by the loss that their runs minimise, under a name for each; one name: `""`.

    Numbers of two losses do not compare. The teacher does not count: it may be another for each
    seed.
    """
    cells = {(cell.arm, tuple(cell.labels.items())): cell for cell in study.cells}
    losses = [_loss_of(cells[one.arm, tuple(one.labels.items())]) for one in found]
    groups: dict[str, list[Curve]] = {}
    for one, loss in zip(found, losses, strict=True):
        same = [other for other in losses if other["name"] == loss["name"]]
        told = [
            f"{key} {value}"
            for key, value in loss.items()
            if any(other.get(key) != value for other in same)
        ]
        groups.setdefault(", ".join([loss["name"], *told]), []).append(one)
    return groups if len(groups) > 1 else {"": list(found)}


def study_loss(study: Study) -> str:
    """The name of the loss of all runs; empty where there are several."""
    names = {_loss_of(cell)["name"] for cell in study.cells if cell.runs}
    return names.pop() if len(names) == 1 else ""


def _loss_of(cell: Cell) -> dict[str, str]:
    """The name and the settings of a loss as text, without those of a teacher."""
    loss = next(iter(cell.runs.values())).recipe.get("loss") or PLAIN_LOSS
    settings = loss if isinstance(loss, Mapping) else {"name": loss}
    found = {clean(str(key)): value_text(value) for key, value in settings.items()}
    return {"name": "", **{key: text for key, text in found.items() if key not in TEACHER}}


def curve(cell: Cell, key: str, against: str | None = None) -> Curve | None:
    """The curve of a cell; None where its runs have no x in common."""
    logged = [run for run in cell.runs.values() if run.log.has(key)]
    if against is None:
        lines = [run.log.columns(key) for run in logged]
    else:
        lines = at_levels(logged, key, against)
    if not lines:
        return None
    x = reduce(np.intersect1d, (at for at, _ in lines))
    if not len(x):
        return None
    values = np.array([found[np.searchsorted(at, x)] for at, found in lines])
    return Curve(cell.arm, cell.labels, len(lines), x, values.mean(0), values.min(0), values.max(0))


def at_levels(runs: Sequence[RunRecord], key: str, against: str) -> list[Columns]:
    """For each run levels of `against`, and values of `key` when the run first came there.

    The levels are those that all runs passed between two records of `key`, evenly apart in the
    logarithm where they are positive. Runs that logged too little are left out.
    """
    falls = _falls(runs, against)
    found_tracks = (_track(run, key, against, falls=falls) for run in runs)
    tracks = [track for track in found_tracks if track is not None]
    if not tracks:
        return []
    low = max(float(min(levels)) for levels, _ in tracks)
    high = min(float(max(levels)) for levels, _ in tracks)
    if low >= high:
        return []
    grid = np.geomspace(low, high, LEVELS) if low > 0 else np.linspace(low, high, LEVELS)
    found: list[Columns] = []
    for levels, values in tracks:
        order = slice(None, None, -1) if falls else slice(None)
        at = np.interp(grid, levels[order], values[order])
        found.append((grid, at))
    return found


def _falls(runs: Sequence[RunRecord], key: str) -> bool:
    """Whether lower is further on: of a loss always, of another scalar by what most runs did."""
    series = [run.series(key) for run in runs]
    fell = sum(one[-1][1] < one[0][1] for one in series if one)
    return "loss" in key or 2 * fell > len(series)


def _track(
    run: RunRecord, key: str, against: str, *, falls: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """(best level of `against` so far, value) at each step where a new best level was reached."""
    measured, level = run.series(key), run.series(against)
    if len(level) < 2 or len(measured) < 2:
        return None
    steps, heights = np.array(level, dtype=float).T
    best = np.minimum if falls else np.maximum
    inside = [(step, value) for step, value in measured if steps[0] <= step <= steps[-1]]
    if len(inside) < 2:
        return None
    at, values = np.array(inside, dtype=float).T
    reached = np.interp(at, steps, best.accumulate(heights))
    levels, first = np.unique(reached, return_index=True)
    if len(levels) < 2:
        return None
    order = np.sort(first)
    return reached[order], values[order]


def logged_keys(study: Study) -> list[str]:
    """Every key that a run logged, sorted."""
    return sorted({key for run in study.runs for key in run.log.keys})
