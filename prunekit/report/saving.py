"""What of the multiply-adds that were saved arrived as time, over the runs of a report."""

from __future__ import annotations

from collections.abc import Sequence

from prunekit.foundation.number_text import counted
from prunekit.foundation.timing import WIDEST
from prunekit.report.read import clean
from prunekit.report.statistics import summary
from prunekit.report.study import Cell, Study


def arrived(study: Study) -> str:
    """A sentence; empty where nothing was saved or nothing timed beside a dense model.

    Of a single run it is that run's own, of several the range over cells of their means.
    """
    if len(study.runs) == 1 and (own := study.runs[0].report.get("saving")):
        return clean(str(own))
    pairs = [pair for cell in study.cells if (pair := _saved(cell)) is not None]
    if not pairs:
        return ""
    fewer = [fewer for fewer, _ in pairs]
    times = [time for _, time in pairs if time is not None]
    if not times:
        return (
            f"{_range(fewer)} fewer multiply-adds than dense in theory: what of it arrived as time "
            "is not known, as what else ran disturbed the timing."
        )
    ends = [f"{end:.2f}" for end in (min(times), max(times))]
    took = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    known = "" if len(times) == len(pairs) else f"; {len(pairs) - len(times)} were timed too badly"
    return (
        f"{_range(fewer)} fewer multiply-adds than dense in theory: one image takes {took} x the "
        f"time of the dense model in torch, over the {counted(len(pairs), 'cell')} that save any"
        f"{known}."
    )


def _saved(cell: Cell) -> tuple[float, float | None] | None:
    """The share of the multiply-adds that a cell saves and its time over that of the dense model.

    Means over its seeds; the time is None where no run was timed well enough to tell.
    """
    counted, dense = (cell.values("macs", key) for key in ("theoretical", "dense"))
    fewer = [1 - counted[seed] / dense[seed] for seed in counted if dense.get(seed)]
    at = ("latency", "torch", "1")
    low, high = (cell.values(*at, key) for key in ("ratio_low", "ratio_high"))
    ratios = cell.values(*at, "ratio")
    well = [ratios[seed] for seed in ratios if high.get(seed, 1) <= WIDEST * low.get(seed, 1)]
    macs, time = summary(fewer), summary(well)
    if not macs or not ratios or macs.mean <= 0:
        return None
    return macs.mean, time.mean if time else None


def _range(shares: Sequence[float]) -> str:
    """`80.0 %`, or `50.0 to 90.0 %`."""
    low, high = (f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"
