"""The tables of a report as text, for the terminal, Markdown and the page alike. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunekit.report.columns import COLUMNS, KEYS, Column
from prunekit.report.comparison import POINTS, Difference, accuracies, accuracy
from prunekit.report.saving import arrived
from prunekit.report.settings import ABSENT, distinctions, short_keys
from prunekit.report.statistics import MANY, PairedDifference, Summary, summary
from prunekit.report.study import Cell, Study
from prunekit.sweep.published import Published

NONE = "-"
SAME = 1e-4
"""Shares that are no further apart are one in a table: a target is met to the unit."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """How many columns, from the left, are words; the rest are numbers."""
    note: str = ""
    """What a reader must know to read it."""


def cell_table(study: Study, key: str, published: Published | None = None) -> Table:
    """One row a cell: accuracy, beside it what others published, and what it costs."""
    beside = [published.at(cell.arm, cell.labels) if published else None for cell in study.cells]
    has = any(beside)
    shown = [
        column
        for column in COLUMNS
        if column.heading and not column.measured and _tells(study, column)
    ]
    columns = (
        *("arm", *study.axes, "seeds", f"{key.split('_')[0]} accuracy, %"),
        *(("published, %",) if has else ()),
        *(column.heading for column in shown),
    )
    rows = [
        (
            *_arm_and_labels(study, cell),
            part(len(accuracies(cell, key)), len(cell.runs)),
            mean_and_deviation(accuracy(cell, key)),
            *((str(value or NONE),) if has else ()),
            *(_mean(cell, column) for column in shown),
        )
        for cell, value in zip(study.cells, beside, strict=True)
    ]
    note = (
        "Mean ± standard deviation over seeds. MACs are multiply-adds of one image: executed with "
        "zeros multiplied, theoretical with zeros skipped. Training FLOPs are spent, not "
        "theoretical. `2 of 3`: of three finished runs two have the number."
    )
    return Table("Results", columns, tuple(rows), 1 + len(study.axes), note)


SIZES_NOTE = (
    "Means over seeds. Parameters that are stored; the model file as it is, packed (zeros left "
    f"out), zipped, and of the dense model. {NONE}: not measured, as in runs of before."
)
TIMES_NOTE = (
    "Means over seeds. Passes of 1 and 8 images (b1, b8) in torch and, of runs that `prunekit "
    "export --onnx` wrote into, in onnxruntime (ORT); / dense: the median ratio to the dense model "
    "in turn, within one process. Milliseconds are those of the machine as it was: ratios compare. "
    f"{NONE}: not measured, as in runs of before."
)


def measured_tables(study: Study) -> list[Table]:
    """One row a cell: bytes, and passes beside those of the dense model; none where nothing is."""
    tables = []
    for title, of, names, note in (
        ("Sizes as measured", "file", ("file", "parameters"), SIZES_NOTE),
        ("Times as measured", "latency", ("latency",), f"{arrived(study)} {TIMES_NOTE}".lstrip()),
    ):
        found = [
            column
            for column in COLUMNS
            if column.measured
            and column.name.startswith(names)
            and any(cell.values(*column.keys) for cell in study.cells)
        ]
        if any(column.name.startswith(of) for column in found):
            columns = ("arm", *study.axes, *(column.heading for column in found))
            rows = [
                (*_arm_and_labels(study, cell), *(_mean(cell, column) for column in found))
                for cell in study.cells
            ]
            tables.append(Table(title, columns, tuple(rows), 1 + len(study.axes), note))
    return tables


def difference_table(study: Study, found: Sequence[Difference]) -> Table:
    """One row a cell and baseline: paired differences in points."""
    columns = (
        *("arm", *study.axes, "against"),
        *("pairs", "difference, points", "95 % interval", "sign test", "detectable"),
        f"seeds for {POINTS:g}",
    )
    rows = [
        (
            *_arm_and_labels(study, one.cell),
            one.baseline.name,
            *difference_row(one.result, len(one.cell.runs)),
        )
        for one in found
    ]
    note = (
        "Accuracy of the arm minus that of the baseline with the same seed. Interval: Student's t, "
        "not corrected for the number of rows. Detectable: the smallest true difference, in "
        "points, that a two-sided t test at 5 % finds with 80 % power from so many pairs, if the "
        "deviation seen is the true one; the last column: the seeds with which it would find "
        f"{POINTS:g} points. Sign test: from six pairs that differ on."
    )
    return Table("Differences", columns, tuple(rows), 2 + len(study.axes), note)


def part(number: int, whole: int) -> str:
    """`3`; `2 of 3` where one has no part in it."""
    return str(number) if number >= whole else f"{number} of {whole}"


def difference_row(result: PairedDifference | None, seeds: int = 0) -> tuple[str, ...]:
    """Pairs of how many seeds, difference, interval, sign test, detectable one, seeds needed."""
    if result is None:
        return (part(0, seeds), "no common seed", NONE, NONE, NONE, NONE)
    sign = "too few" if result.sign_p is None else f"p = {result.sign_p:.3f}"
    if result.interval is None:
        why = "one seed" if result.count == 1 else "no spread"
        return (part(result.count, seeds), f"{result.mean:+.2f}", why, sign, NONE, NONE)
    low, high = result.interval
    needed = result.seeds_for_target or 0
    return (
        part(result.count, seeds),
        f"{result.mean:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        sign,
        f"{result.detectable:.2f}",
        f"{needed}" if needed < MANY else f"over {MANY:,}",
    )


def recipe_table(study: Study) -> Table | None:
    """What sets each arm's recipe apart from the rest; None for a single arm."""
    if len(study.recipes) < 2:
        return None
    told = distinctions(study.recipes)
    short = short_keys(list(dict.fromkeys(key for one in told.values() for key in one)))
    rows = [
        (arm, "; ".join(_told(short[key], value) for key, value in one.items()) or "as most arms")
        for arm, one in told.items()
    ]
    return Table(
        "Recipes",
        ("arm", "what differs from most arms"),
        tuple(rows),
        2,
        "The seed, the axes, names, paths, probes and logging are left out.",
    )


def _told(key: str, value: object) -> str:
    return f"no {key}" if value == ABSENT else f"{key}: {value}"


def warning_table(found: Sequence[tuple[str, int]]) -> Table | None:
    """How many runs gave each warning; None where none did."""
    if not found:
        return None
    rows = tuple((text, str(count)) for text, count in found)
    return Table("Warnings", ("warning of the runs", "runs"), rows)


def mean_and_deviation(found: Summary | None) -> str:
    """`97.01 ± 0.12`; without the deviation for one value."""
    if found is None:
        return NONE
    if found.deviation is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ± {found.deviation:.2f}"


def _arm_and_labels(study: Study, cell: Cell) -> tuple[str, ...]:
    return (cell.arm, *(cell.labels.get(axis, NONE) for axis in study.axes))


def _tells(study: Study, column: Column) -> bool:
    """Whether a column says what no other does, in any cell."""
    if not column.unlike:
        return True
    other = KEYS[column.unlike]
    pairs = ((cell.values(*column.keys), cell.values(*other)) for cell in study.cells)
    return any(
        abs(value - others.get(seed, value)) > SAME
        for own, others in pairs
        for seed, value in own.items()
    )


def _mean(cell: Cell, column: Column) -> str:
    found = summary(list(cell.values(*column.keys).values()))
    if found is None:
        return NONE
    text = column.as_text(found.mean).strip()
    few = found.count < len(cell.runs)
    return f"{text} ({part(found.count, len(cell.runs))})" if few else text
