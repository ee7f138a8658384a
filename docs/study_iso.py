"""Section 5 of the study: tables of the sweep `iso_compute`, in which all arms are paired by seed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial

from study_burden import BURDEN
from study_compression import middle_and_range, quotients, tokens_of
from study_tables import VERDICT, cell_at, mean_and_deviation, paired, table, verdict

from prunekit.report.curves import at_levels
from prunekit.report.read import RunRecord
from prunekit.report.statistics import paired_difference
from prunekit.report.study import Cell, Study

KINDS = ("tokens", "keys", "pooling", "dropping")
GRADIENT, WEIGHT = (f"{BURDEN}/{what}_rms/active/pooled" for what in ("gradient", "weight"))


def places(study: Study) -> Iterator[tuple[str, str, Cell, Cell]]:
    """(arm, sparsity that it stands for, its cell, that of `none` there), by sparsity."""
    for sparsity, arm in itertools.product(study.axes["sparsity"], study.arms):
        stands_for = f"_denser_for_{round(100 * float(sparsity))}"
        if "_denser_for_" in arm and not arm.endswith(stands_for):
            continue
        base = cell_at(study, "none", sparsity=sparsity)
        yield arm, sparsity, cell_at(study, arm, sparsity=sparsity), base


def iso_accuracy(study: Study) -> str:
    """What each arm costs over `none` and how well it does, at each sparsity."""
    rows = []
    for arm, sparsity, cell, base in places(study):
        costs = [
            middle_and_range(quotients([(cell, base)], *keys)).split(" (")[0]
            for keys in (("train", "flops"), ("macs", "theoretical"), ("train", "wall_seconds"))
        ]
        judged = verdict(paired(cell, base)) if cell is not base else [""] * len(VERDICT)
        rows.append([sparsity, arm, tokens_of(cell), *costs, mean_and_deviation(cell), *judged])
    head = ["sparsity", "arm", "tokens", "training", "an image, without zeros", "seconds"]
    return table([*head, "accuracy", *VERDICT], rows)


def iso_less(study: Study) -> str:
    """Compression against a network without it that costs as little."""
    rows = []
    for sparsity, kind in itertools.product(study.axes["sparsity"], KINDS):
        for other in ("none_fewer_steps", "none_narrower"):
            cells = [cell_at(study, arm, sparsity=sparsity) for arm in (kind, other)]
            spent = middle_and_range(quotients([(cells[0], cells[1])], "train", "flops"))
            row = [sparsity, f"{kind} - {other}", spent.split(" (")[0]]
            rows.append([*row, *verdict(paired(*cells))])
    return table(["sparsity", "difference", "its training", *VERDICT], rows)


def iso_kinds(study: Study) -> str:
    """Ways to save compute against each other, all with the whole budget."""
    pairs = [("tokens", "pooling"), ("tokens", "dropping"), ("keys", "tokens")]
    rows = []
    for sparsity, spent in itertools.product(study.axes["sparsity"], ("more_steps", "wider")):
        channels = [(kind, "none_narrower") for kind in KINDS if spent == "more_steps"]
        for kind, other in [*pairs, *channels]:
            cells = [cell_at(study, f"{a}_{spent}", sparsity=sparsity) for a in (kind, other)]
            row = [sparsity, f"{kind} - {other}, {spent.replace('_', ' ')}"]
            rows.append([*row, *verdict(paired(*cells))])
    return table(["sparsity", "difference", *VERDICT], rows)


def iso_burden(study: Study) -> str:
    """Gradients and weights of the entries that stay, with compression over without, in percent."""
    readings: dict[str, Callable[[RunRecord, RunRecord], float | None]] = {
        "gradient, whole run": partial(over, key=GRADIENT, last=1.0),
        "gradient, last quarter": partial(over, key=GRADIENT, last=0.25),
        "gradient, at equal training loss": over_at_equal_loss,
        "weights in the end": partial(over, key=WEIGHT, last=0.0),
    }
    rows = []
    for sparsity, kind in itertools.product(study.axes["sparsity"], KINDS):
        cell, base = (cell_at(study, arm, sparsity=sparsity) for arm in (kind, "none"))
        both = [(run, base.runs[seed]) for seed, run in cell.runs.items() if seed in base.runs]
        rows.append([sparsity, kind])
        for read in readings.values():
            ratios = [ratio for pair in both if (ratio := read(*pair)) is not None]
            percent, interval, *_ = verdict(paired_difference([100 * (r - 1) for r in ratios]))
            rows[-1].append(f"{percent} % ({interval})")
    return table(["sparsity", "compressor", *readings], rows)


def over(run: RunRecord, base: RunRecord, key: str, last: float) -> float:
    """The mean of the records in the last share of a run, over that of another; 0 = the last."""
    found = [late(one, key, last) for one in (run, base)]
    return found[0] / found[1]


def late(run: RunRecord, key: str, last: float) -> float:
    """The mean of the records in the last share of a run."""
    series = run.series(key)
    begin = (1 - last) * series[-1][0]
    return statistics.fmean(value for step, value in series if step >= begin)


def over_at_equal_loss(run: RunRecord, base: RunRecord) -> float | None:
    """The median over the training losses that two runs have in common; None without any."""
    lines = at_levels([run, base], GRADIENT, "train/loss")
    if len(lines) < 2:
        return None
    (_, mine), (_, theirs) = lines
    return statistics.median((mine / theirs).tolist())
