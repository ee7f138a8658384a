"""What the tables of the study have in common: Markdown, cells by their place, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunekit.report.comparison import accuracies
from prunekit.report.statistics import PairedDifference, paired_difference, summary
from prunekit.report.study import Cell, Study
from prunekit.report.tables import difference_row

TOP1 = "test_top1"
VERDICT = ("points", "95 % interval", "detectable", "seeds for 0.5")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def cell_at(study: Study, arm: str, **place: str) -> Cell:
    """The cell of an arm at a place; labels of axes that it does not have are passed over."""
    for cell in study.arm_cells(arm):
        if all(cell.labels.get(axis, label) == label for axis, label in place.items()):
            return cell
    raise SystemExit(f"{study.name}: no arm {arm!r} at {place}: made by another sweep file?")


def paired(cell: Cell, base: Cell) -> PairedDifference | None:
    """The difference of two cells, in points, judged over the seeds that both have."""
    return paired_difference(list(differences(cell, base).values()))


def differences(cell: Cell, base: Cell) -> dict[int, float]:
    """Seed -> accuracy of a cell less that of another, in points."""
    mine, theirs = accuracies(cell, TOP1), accuracies(base, TOP1)
    return {seed: mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())}


def verdict(result: PairedDifference | None) -> list[str]:
    """Difference, interval, what could have been seen, seeds that would show half a point."""
    _, points, interval, _, detectable, seeds = difference_row(result)
    return [points, interval, detectable, seeds]


def mean_and_deviation(cell: Cell) -> str:
    """Accuracy in percent over the seeds."""
    found = summary(list(accuracies(cell, TOP1).values()))
    if found is None:
        return "missing"
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.deviation else "")
