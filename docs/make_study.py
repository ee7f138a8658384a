"""Fill the tables of `docs/study.md` and draw its pictures from the directories of its sweeps.

    prunekit sweep burden_mnist --jobs 2        # and the others that the page names
    python docs/make_study.py SWEEPS

SWEEPS holds the sweep directories. Between `<!-- table: NAME -->` and `<!-- end -->` the page is
written by this script, the rest by hand. A table whose sweep is not there stays as it is.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prunekit.report.comparison import accuracies
from prunekit.report.curve_picture import curve_picture
from prunekit.report.curves import at_levels, curve, curves
from prunekit.report.facts import RunFacts, common
from prunekit.report.statistics import PairedDifference, paired_difference, summary
from prunekit.report.study import Cell, Study
from prunekit.report.style import save
from prunekit.report.sweep_study import sweep_study

PAGE = Path(__file__).parent / "study.md"
PICTURES = Path(__file__).parent / "study"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
ORDER = ("iterative", "optimal", "random")
INDICATORS = tuple(itertools.product(("l2", "mean_abs", "rms"), ("active", "dense")))
TOP1 = "test_top1"
Rows = Iterable[Sequence[str]]


def table(head: Sequence[str], rows: Rows) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def cell_at(study: Study, arm: str, **place: str) -> Cell:
    """The cell of an arm at a place; labels of axes that it does not have are passed over."""
    for cell in study.arm_cells(arm):
        if all(cell.place.get(axis, label) == label for axis, label in place.items()):
            return cell
    raise SystemExit(f"{study.name}: no arm {arm!r} at {place}: made by another sweep file?")


def made_by(study: Study, command: str) -> str:
    """What stands below a table: the command, where and when the runs were made."""
    runs = study.runs
    commits = sorted({str(_manifest(run, "git", "commit"))[:7] for run in runs})
    days = sorted({run.path.name[:8] for run in runs})
    day = f"{days[-1][:4]}-{days[-1][4:6]}-{days[-1][6:]}"
    torch, device = common(runs, "versions", "torch"), common(runs, "device_name")
    missing = f"; {len(study.missing)} runs are missing" if study.missing else ""
    return (
        f"\n({len(runs)} runs of `{command}`; {device}, torch {torch}, prunekit at "
        f"{', '.join(commits)}, {day}{missing}.)\n"
    )


def _manifest(run: RunFacts, *keys: str) -> object:
    from prunekit import open_run

    found: object = open_run(run.path).manifest()
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


# ---- 1. burden


def burden_order(study: Study) -> str:
    """At what share of the records the mean gradients stand in the paper's order."""
    rows = []
    for optimizer, (statistic, entries) in itertools.product(study.axes["optimizer"], INDICATORS):
        key = f"probe/burden/gradient_{statistic}/{entries}/pooled"
        row = [optimizer, f"`{statistic}`, {entries}"]
        for against in (None, "train/loss"):
            for sparsity in study.axes["sparsity"]:
                row.append(shares(means(study, key, against, sparsity, optimizer)))
        rows.append(row)
    columns = [f"{s}, {at}" for at in ("by step", "by loss") for s in study.axes["sparsity"]]
    return table(["optimizer", "indicator", *columns], rows)


def means(
    study: Study, key: str, against: str | None, sparsity: str, optimizer: str
) -> list[np.ndarray]:
    """Of each arm of `ORDER`, the mean over seeds at the same steps or the same losses.

    Nothing where the runs have no loss in common.
    """
    cells = [cell_at(study, arm, sparsity=sparsity, optimizer=optimizer) for arm in ORDER]
    if against is None:
        found = [curve(cell, key) for cell in cells]
        shared = sorted(set.intersection(*(set(c.x.tolist()) for c in found if c)))
        return [c.mean[np.isin(c.x, shared)] for c in found if c]
    runs = [run for cell in cells for run in cell.runs.values()]
    lines = at_levels(runs, key, against)
    if len(lines) < len(runs):
        return []
    values = iter([[value for _, value in line] for line in lines])
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
        lines = at_levels(runs, "sparsity/achieved", "train/loss")[: len(cells[0].runs)]
        if not lines:
            rows.append([optimizer, sparsity, "none", ""])
            continue
        losses = [loss for loss, _ in lines[0]]
        reached = [100 * value for line in lines for _, value in line]
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


def burden_seeds(study: Study) -> str:
    """In how many seeds the mean gradient over the run stands in the paper's order."""
    rows = []
    for optimizer, (statistic, entries) in itertools.product(study.axes["optimizer"], INDICATORS):
        key = f"probe/burden/gradient_{statistic}/{entries}/pooled"
        row = [optimizer, f"`{statistic}`, {entries}"]
        for sparsity in study.axes["sparsity"]:
            cells = [cell_at(study, arm, sparsity=sparsity, optimizer=optimizer) for arm in ORDER]
            over_run = [{s: level(run, key) for s, run in cell.runs.items()} for cell in cells]
            seeds = sorted(set.intersection(*(set(found) for found in over_run)))
            held = sum(over_run[0][s] < over_run[1][s] < over_run[2][s] for s in seeds)
            ratios = [statistics.fmean(f[s] / over_run[1][s] for s in seeds) for f in over_run]
            row.append(f"{held} of {len(seeds)} ({ratios[0]:.2f} : 1 : {ratios[2]:.2f})")
        rows.append(row)
    return table(["optimizer", "indicator", *study.axes["sparsity"]], rows)


def level(run: RunFacts, key: str) -> float:
    """The mean of the records of a run."""
    return statistics.fmean(value for _, value in run.series(key))


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
            found = curve(cell, f"probe/burden/weight_rms/{entries}/pooled")
            if found is None:
                continue
            places = [0, *(int(q * (len(found.x) - 1) / 4) for q in (1, 2, 3, 4))]
            values = [f"{found.mean[i]:.4f}" for i in places]
            rows.append([optimizer, sparsity, f"{words} (`{arm}`)", *values])
    return table(["optimizer", "sparsity", "entries", "start", "25 %", "50 %", "75 %", "end"], rows)


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
    """The curves of the four arms at the highest sparsity."""
    arms = ("iterative", "optimal", "match", "random", "dense")
    highest = study.axes["sparsity"][-1]
    shown = narrowed(study, arms, lambda cell: cell.place.get("sparsity", highest) == highest)
    for name, key, against in (
        ("burden_gradient_by_step", "probe/burden/gradient_mean_abs/active/pooled", None),
        ("burden_gradient_by_loss", "probe/burden/gradient_mean_abs/active/pooled", "train/loss"),
        ("burden_weight", "probe/burden/weight_rms/active/pooled", None),
    ):
        draw(shown, key, against, name)


# ---- 2 to 4. compression


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


def tokens_of(cell: Cell) -> str:
    """Tokens that are left of an image."""
    return ", ".join(sorted({f"{n:.0f}" for n in cell.values("tokens", "after").values()}))


def places(study: Study) -> Iterator[dict[str, str]]:
    """Every combination of the labels."""
    for labels in itertools.product(*study.axes.values()):
        yield dict(zip(study.axes, labels, strict=True))


# ---- judging and drawing

VERDICT = ("points", "95 % interval", "detectable", "seeds for 0.5")


def paired(cell: Cell, base: Cell) -> PairedDifference | None:
    """The difference of two cells, in points, by seed."""
    mine, theirs = accuracies(cell, TOP1), accuracies(base, TOP1)
    return paired_difference([mine[s] - theirs[s] for s in sorted(mine.keys() & theirs.keys())])


def verdict(result: PairedDifference | None) -> list[str]:
    """Difference, interval, what could have been seen, seeds that would show half a point."""
    if result is None:
        return ["no pair", "", "", ""]
    if result.interval is None:
        return [f"{result.mean:+.2f}", "one seed", "", ""]
    low, high = result.interval
    if not result.deviation:
        return [f"{result.mean:+.2f}", "no spread", "", ""]
    return [
        f"{result.mean:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{result.detectable:.2f}",
        str(result.seeds_for_target),
    ]


def mean_and_deviation(cell: Cell) -> str:
    """Accuracy in percent over the seeds."""
    found = summary(list(accuracies(cell, TOP1).values()))
    if found is None:
        return "missing"
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.deviation else "")


def narrowed(study: Study, arms: Sequence[str], keep: Callable[[Cell], bool]) -> Study:
    """Some of the cells."""
    from dataclasses import replace

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


TABLES: dict[str, tuple[str, Callable[[Study], str]]] = {
    "burden_order": ("burden_mnist", burden_order),
    "burden_levels": ("burden_mnist", burden_levels),
    "burden_seeds": ("burden_mnist", burden_seeds),
    "burden_norms": ("burden_mnist", burden_norms),
    "burden_accuracy": ("burden_mnist", burden_accuracy),
    "burden_differences": ("burden_mnist", burden_differences),
    "compression": ("compression_cpu", compression),
    "speed": ("compression_cpu", speed),
    "merging": ("merging", merging),
}


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", type=Path, help="the folder that holds the sweep directories")
    folder = parser.parse_args().sweeps
    studies = {
        name: sweep_study(folder / name)
        for name in {sweep for sweep, _ in TABLES.values()}
        if (folder / name / "plan.json").is_file()
    }

    def filled(block: re.Match[str]) -> str:
        sweep, make = TABLES[block[2]]
        if sweep not in studies:
            print(f"{block[2]}: left as it is, no {folder / sweep}")
            return block[0]
        study = studies[sweep]
        return f"{block[1]}\n{make(study)}{made_by(study, f'prunekit sweep {sweep}')}\n{block[3]}"

    PAGE.write_text(BLOCK.sub(filled, PAGE.read_text("utf-8")), "utf-8")
    if "burden_mnist" in studies:
        burden_pictures(studies["burden_mnist"])
    print(f"{PAGE} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
