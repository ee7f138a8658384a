"""Section 1 of the study: tables and pictures of the sweep `burden_mnist`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from study_tables import VERDICT, cell_at, mean_and_deviation, paired, table, verdict

from prunekit.report.curves import at_levels, curve, curves
from prunekit.report.figures.curves import curve_picture
from prunekit.report.figures.style import save
from prunekit.report.read import RunRecord
from prunekit.report.study import Cell, Study

PICTURES = Path(__file__).parent / "study"
BURDEN = "probe/burden"
ORDER = ("iterative", "optimal", "random")
INDICATORS = tuple(itertools.product(("l2", "mean_abs", "rms"), ("active", "dense")))


def burden_order(study: Study) -> str:
    """At what share of the records the mean gradients stand in the paper's order."""
    rows = []
    for optimizer, (statistic, entries) in itertools.product(study.axes["optimizer"], INDICATORS):
        key = f"{BURDEN}/gradient_{statistic}/{entries}/pooled"
        row = [optimizer, f"`{statistic}`, {entries}"]
        for against in (None, "train/loss"):
            for sparsity in study.axes["sparsity"]:
                row.append(shares(means(study, key, against, sparsity, optimizer)))
        rows.append(row)
    columns = [f"{s}, {at}" for at in ("by step", "by loss") for s in study.axes["sparsity"]]
    return table(["optimizer", "indicator", *columns], rows)


def means(
    study: Study,
    key: str,
    against: str | None,
    sparsity: str,
    optimizer: str,
    arms: Sequence[str] = ORDER,
) -> list[np.ndarray]:
    """Of each arm, the mean over seeds at the same steps or the same losses.

    Nothing where the runs have no loss in common.
    """
    cells = [cell_at(study, arm, sparsity=sparsity, optimizer=optimizer) for arm in arms]
    if against is None:
        found = [curve(cell, key) for cell in cells]
        shared = sorted(set.intersection(*(set(c.x.tolist()) for c in found if c)))
        return [c.mean[np.isin(c.x, shared)] for c in found if c]
    runs = [run for cell in cells for run in cell.runs.values()]
    lines = at_levels(runs, key, against)
    if len(lines) < len(runs):
        return []
    values = iter([line for _, line in lines])
    return [np.mean([next(values) for _ in cell.runs], axis=0) for cell in cells]


def shares(arms: Sequence[np.ndarray]) -> str:
    """How often iterative < optimal, and optimal < random."""
    if len(arms) < len(ORDER):
        return "no loss in common"
    low, middle, high = arms
    return f"{percent(low < middle)}, {percent(middle < high)}"


def percent(truths: np.ndarray) -> str:
    """Share of true entries."""
    return f"{100 * truths.mean():.0f} %"


def burden_levels(study: Study) -> str:
    """Which losses the arms have in common, and how sparse iterative was when it came there."""
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        cells = [cell_at(study, arm, sparsity=sparsity, optimizer=optimizer) for arm in ORDER]
        runs = [run for cell in cells for run in cell.runs.values()]
        lines = at_levels(runs, f"{BURDEN}/gradient_l2/active/pooled", "train/loss")
        if len(lines) < len(runs):
            rows.append([optimizer, sparsity, "none", ""])
            continue
        losses = lines[0][0].tolist()
        iterative = cells[0].runs.values()
        reached = [100 * sparsity_at(run, loss) for run in iterative for loss in losses]
        rows.append(
            [
                optimizer,
                sparsity,
                f"{max(losses):.3g} to {min(losses):.3g}",
                f"{min(reached):.0f} % to {max(reached):.0f} %",
            ]
        )
    head = ["optimizer", "sparsity", "training loss, nats", "sparsity of iterative there"]
    return table(head, rows)


def burden_dense(study: Study) -> str:
    """The gradient of an active weight at equal training loss, over that of the unpruned network."""
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        key, arms = f"{BURDEN}/gradient_mean_abs/active/pooled", ("iterative", "optimal", "dense")
        found = means(study, key, "train/loss", sparsity, optimizer, arms)
        if not found:
            rows.append([optimizer, sparsity, *["no loss in common"] * 4])
            continue
        late = len(found[0]) // 3  # losses rise along the levels
        over = [one / found[2] for one in found[:2]]
        shown = [np.median(part) for one in over for part in (one, one[:late])]
        rows.append([optimizer, sparsity, *(f"{value:.2f}" for value in shown)])
    arms = ("iterative / dense", "optimal / dense")
    columns = [f"{arm}, {part}" for arm in arms for part in ("all", "lowest third")]
    return table(["optimizer", "sparsity", *columns], rows)


def sparsity_at(run: RunRecord, loss: float) -> float:
    """What was pruned when the training loss first came down to `loss`; nothing before a record."""
    step = next(step for step, value in run.series("train/loss") if value <= loss)
    return next((s for at, s in reversed(run.series("sparsity/achieved")) if at <= step), 0.0)


def burden_seeds(study: Study) -> str:
    """In how many seeds the mean gradient over the run stands in the paper's order."""
    rows = []
    for optimizer, (statistic, entries) in itertools.product(study.axes["optimizer"], INDICATORS):
        key = f"{BURDEN}/gradient_{statistic}/{entries}/pooled"
        row = [optimizer, f"`{statistic}`, {entries}"]
        for sparsity in study.axes["sparsity"]:
            cells = [cell_at(study, arm, sparsity=sparsity, optimizer=optimizer) for arm in ORDER]
            over_run = [{s: level(run, key) for s, run in cell.runs.items()} for cell in cells]
            seeds = sorted(set.intersection(*(set(found) for found in over_run)))
            if not seeds:
                row.append("no seed of all three")
                continue
            held = sum(over_run[0][s] < over_run[1][s] < over_run[2][s] for s in seeds)
            ratios = [statistics.fmean(f[s] / over_run[1][s] for s in seeds) for f in over_run]
            row.append(f"{held} of {len(seeds)} ({ratios[0]:.2f} : 1 : {ratios[2]:.2f})")
        rows.append(row)
    return table(["optimizer", "indicator", *study.axes["sparsity"]], rows)


def level(run: RunRecord, key: str) -> float:
    """The mean of the records of a run."""
    return statistics.fmean(value for _, value in run.series(key))


def final(run: RunRecord, key: str) -> float:
    """The last record of a run."""
    return run.series(key)[-1][1]


def mean_and_range(values: Sequence[float]) -> str:
    """Mean, least and largest."""
    if not values:
        return "no pair"
    return f"{statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def burden_norms(study: Study) -> str:
    """The RMS of weights at a quarter, half, three quarters and the end of the run."""
    lines = (
        ("iterative", "active", "kept at the time"),
        ("iterative_75", "active", "kept at the time, ramp to 75 %"),
        ("iterative_traced", "support", "kept in the end"),
        ("ranked_traced", "support", "the largest in the end of a dense run"),
        ("optimal", "active", "the same entries, alone from the start"),
        ("random", "active", "random entries"),
    )
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        for arm, entries, words in lines:
            cell = cell_at(study, arm, sparsity=sparsity, optimizer=optimizer)
            found = curve(cell, f"{BURDEN}/weight_rms/{entries}/pooled")
            if found is None:
                continue
            places = [0, *(int(q * (len(found.x) - 1) / 4) for q in (1, 2, 3, 4))]
            values = [f"{found.mean[i]:.4f}" for i in places]
            rows.append([optimizer, sparsity, f"{words} (`{arm}`)", *values])
    return table(["optimizer", "sparsity", "entries", "start", "25 %", "50 %", "75 %", "end"], rows)


def burden_ramp(study: Study) -> str:
    """What a ramp that ends at 75 % of the run changes: over the one to its end, by seed."""
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        here = {"sparsity": sparsity, "optimizer": optimizer}
        cells = [cell_at(study, arm, **here) for arm in ("iterative_75", "iterative")]
        pairs = [
            (run, cells[1].runs[seed])
            for seed, run in cells[0].runs.items()
            if seed in cells[1].runs
        ]
        rows.append(
            [
                optimizer,
                sparsity,
                *(
                    mean_and_range([read(a) / read(b) for a, b in pairs])
                    for read in (
                        partial(level, key=f"{BURDEN}/gradient_mean_abs/active/pooled"),
                        partial(level, key=f"{BURDEN}/gradient_l2/active/pooled"),
                        partial(final, key=f"{BURDEN}/weight_rms/active/pooled"),
                    )
                ),
            ]
        )
    head = [
        "optimizer",
        "sparsity",
        "gradient, `mean_abs`",
        "gradient, `l2`",
        "weights in the end, `rms`",
    ]
    return table(head, rows)


def burden_accuracy(study: Study) -> str:
    """Test accuracy of every arm, and what it gives over random."""
    arms = [arm for arm in study.arms if not arm.endswith("_traced") and arm != "ranked"]
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        here = {"sparsity": sparsity, "optimizer": optimizer}
        found = [mean_and_deviation(cell_at(study, arm, **here)) for arm in arms]
        rows.append([optimizer, sparsity, *found])
    return table(["optimizer", "sparsity", *arms], rows)


def burden_differences(study: Study) -> str:
    """Paired differences of the arms that the claims are about."""
    pairs = (("iterative", "optimal"), ("iterative_75", "iterative"), ("optimal", "match"),
             ("match", "random"), ("iterative", "dense"))  # fmt: skip
    rows = []
    for optimizer, sparsity in itertools.product(study.axes["optimizer"], study.axes["sparsity"]):
        for arm, other in pairs:
            here = {"sparsity": sparsity, "optimizer": optimizer}
            result = paired(cell_at(study, arm, **here), cell_at(study, other, **here))
            rows.append([optimizer, sparsity, f"{arm} - {other}", *verdict(result)])
    return table(["optimizer", "sparsity", "difference", *VERDICT], rows)


def burden_pictures(study: Study) -> None:
    """The curves of the arms at the highest sparsity; those of followed entries at each."""
    arms = ("iterative", "optimal", "match", "random", "dense")
    highest = study.axes["sparsity"][-1]
    shown = narrowed(study, arms, lambda cell: cell.labels.get("sparsity", highest) == highest)
    for name, key, against in (
        ("burden_gradient_by_step", f"{BURDEN}/gradient_mean_abs/active/pooled", None),
        ("burden_gradient_by_loss", f"{BURDEN}/gradient_mean_abs/active/pooled", "train/loss"),
        ("burden_weight", f"{BURDEN}/weight_rms/active/pooled", None),
    ):
        draw(shown, key, against, name)
    traced = narrowed(study, ("iterative_traced", "ranked_traced"), lambda _: True)
    draw(traced, f"{BURDEN}/weight_rms/support/pooled", None, "burden_support")


def narrowed(study: Study, arms: Sequence[str], keep: Callable[[Cell], bool]) -> Study:
    """Some of the cells."""
    cells = tuple(cell for cell in study.cells if cell.arm in arms and keep(cell))
    kept = tuple(arm for arm in arms if arm in study.arms)
    return replace(study, arms=kept, cells=cells)


def draw(study: Study, key: str, against: str | None, name: str) -> None:
    """A picture of the curves as PNG."""
    figure = curve_picture(study, curves(study, key, against), key, against)
    PICTURES.mkdir(exist_ok=True)
    for path in save(figure, PICTURES, name):
        if path.suffix != ".png":
            path.unlink()
