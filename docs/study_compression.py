"""Sections 2 to 4 of the study: tables of the sweeps `compression_cpu` and `merging`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence

from study_tables import VERDICT, cell_at, differences, mean_and_deviation, paired, table, verdict

from prunekit.report.statistics import paired_difference
from prunekit.report.study import Cell, Study


def compression(study: Study) -> str:
    """Accuracy at each ratio, and its paired difference from no compression."""
    rows = []
    for sparsity, ratio in itertools.product(study.axes["sparsity"], study.axes["ratio"]):
        cell = cell_at(study, study.arms[0], sparsity=sparsity, ratio=ratio)
        base = cell_at(study, study.arms[0], sparsity=sparsity, ratio=study.axes["ratio"][0])
        tokens = tokens_of(cell)
        judged = verdict(paired(cell, base)) if cell is not base else [""] * len(VERDICT)
        rows.append([sparsity, ratio, tokens, mean_and_deviation(cell), *judged])
    return table(["sparsity", "ratio", "tokens", "accuracy", *VERDICT], rows)


def interaction(study: Study) -> str:
    """What a ratio costs at the highest sparsity less what it costs at the lowest, by seed."""
    first, *ratios = study.axes["ratio"]
    lowest, *_, highest = study.axes["sparsity"]
    rows = []
    for ratio in ratios:
        low, high = (
            differences(
                cell_at(study, study.arms[0], sparsity=sparsity, ratio=ratio),
                cell_at(study, study.arms[0], sparsity=sparsity, ratio=first),
            )
            for sparsity in (lowest, highest)
        )
        both = sorted(low.keys() & high.keys())
        rows.append([ratio, *verdict(paired_difference([high[s] - low[s] for s in both]))])
    return table([f"ratio, sparsity {highest} less {lowest}", *VERDICT], rows)


def speed(study: Study) -> str:
    """Each ratio over the first, no compression, at the same sparsity and seed."""
    arm, (first, *ratios) = study.arms[0], study.axes["ratio"]
    rows = []
    for ratio in ratios:
        pairs = [
            (
                cell_at(study, arm, sparsity=sparsity, ratio=ratio),
                cell_at(study, arm, sparsity=sparsity, ratio=first),
            )
            for sparsity in study.axes["sparsity"]
        ]
        points = [result.mean for pair in pairs if (result := paired(*pair))]
        rows.append(
            [
                ratio,
                tokens_of(pairs[0][0]),
                *(
                    middle_and_range(quotients(pairs, *keys))
                    for keys in (
                        ("macs", "executed"),
                        ("train", "images_per_second"),
                        ("train", "wall_seconds"),
                    )
                ),
                f"{min(points):+.2f} to {max(points):+.2f}" if points else "no pair",
            ]
        )
    head = ["ratio", "tokens", "multiply-adds", "images a second", "wall time", "points"]
    return table(head, rows)


def quotients(pairs: Iterable[tuple[Cell, Cell]], *keys: str) -> list[float]:
    """A number of the report over that of the run beside it, for each pair of cells and seed."""
    found = [(cell.values(*keys), base.values(*keys)) for cell, base in pairs]
    return [mine[seed] / theirs[seed] for mine, theirs in found for seed in mine if seed in theirs]


def middle_and_range(values: Sequence[float]) -> str:
    """Median, least and largest."""
    if not values:
        return "no pair"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def merging(study: Study) -> str:
    """The compressors at equal token counts, against the first."""
    rows = []
    for arm, place in itertools.product(study.arms, places(study)):
        cell, base = cell_at(study, arm, **place), cell_at(study, study.arms[0], **place)
        tokens = tokens_of(cell)
        judged = verdict(paired(cell, base)) if cell is not base else [""] * len(VERDICT)
        rows.append([arm, *place.values(), tokens, mean_and_deviation(cell), *judged])
    return table(["compressor", *study.axes, "tokens", "accuracy", *VERDICT], rows)


def merging_pairs(study: Study) -> str:
    """The compressors against each other, at equal token counts."""
    arms = (
        ("tome_dot", "random_drop"),
        ("tome_cosine", "random_drop"),
        ("average_pool", "random_drop"),
        ("average_pool", "tome_dot"),
        ("average_pool", "tome_cosine"),
        ("tome_cosine", "tome_dot"),
    )
    rows = [
        [f"{arm} - {other}", *verdict(paired(cell_at(study, arm), cell_at(study, other)))]
        for arm, other in arms
    ]
    return table(["difference", *VERDICT], rows)


def tokens_of(cell: Cell) -> str:
    """Tokens that are left of an image."""
    return ", ".join(sorted({f"{n:.0f}" for n in cell.values("tokens", "after").values()}))


def places(study: Study) -> Iterator[dict[str, str]]:
    """Every combination of the labels."""
    for labels in itertools.product(*study.axes.values()):
        yield dict(zip(study.axes, labels, strict=True))
