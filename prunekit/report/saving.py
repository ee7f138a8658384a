"""What of the multiply-adds that were saved arrived as time, over the runs of a report."""

from __future__ import annotations

from collections.abc import Sequence

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
    fewer, less = ([pair[i] for pair in pairs] for i in (0, 1))
    return (
        f"{_range(fewer)} fewer multiply-adds than dense in theory arrived as {_range(less)} less "
        f"time for one image in torch (a minus: more), over the {len(pairs)} cells that save any."
    )


def _saved(cell: Cell) -> tuple[float, float] | None:
    """Shares of the multiply-adds and of the time that a cell saves, means over its seeds."""
    counted, dense = (cell.values("macs", key) for key in ("theoretical", "dense"))
    fewer = [1 - counted[seed] / dense[seed] for seed in counted if dense.get(seed)]
    less = [1 - ratio for ratio in cell.values("latency", "torch", "1", "ratio").values()]
    macs, time = summary(fewer), summary(less)
    return (macs.mean, time.mean) if macs and time and macs.mean > 0 else None


def _range(shares: Sequence[float]) -> str:
    """`80.0 %`, or `50.0 to 90.0 %`."""
    low, high = (f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"
