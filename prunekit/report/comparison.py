"""Differences between cells: by seed, against the baselines that there are. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.report.labels import number_of
from prunekit.report.read import RunRecord
from prunekit.report.settings import fingerprint, settings_of
from prunekit.report.statistics import PairedDifference, Summary, paired_difference, summary
from prunekit.report.study import Cell, Study

POINTS = 0.5
"""The difference of accuracy, in points, whose price in seeds is told."""
SPLITS = ("test_top1", "validation_top1")


@dataclass(frozen=True)
class Baseline:
    """What cells are compared with: an arm at the same place, or the same arm at another label."""

    label: str
    arm: str | None = None
    axis: str | None = None

    @property
    def name(self) -> str:
        """As a person, or `--baseline`, calls it."""
        return self.label if self.axis is None else f"{self.axis}={self.label}"

    def concerns(self, cell: Cell) -> bool:
        """Whether `cell` is to be judged by it: it has the axis, and is no such cell itself."""
        if self.axis is None:
            return cell.arm != self.arm
        return cell.labels.get(self.axis, self.label) != self.label

    def cell_for(self, cell: Cell, study: Study) -> Cell | None:
        """The cell that `cell` is judged by; None where it is one itself, or there is none."""
        if not self.concerns(cell):
            return None
        if self.axis is None:
            found = [other for other in study.cells if other.arm == self.arm]
            return next((c for c in found if c.labels.items() <= cell.labels.items()), None)
        wanted = {**cell.labels, self.axis: self.label}
        return next((c for c in study.cells if c.arm == cell.arm and c.labels == wanted), None)


@dataclass(frozen=True)
class Difference:
    """A cell minus its baseline."""

    cell: Cell
    baseline: Baseline
    reference: Cell
    result: PairedDifference | None
    """In points of accuracy; None where no seed is in both."""


def accuracy_key(study: Study) -> str:
    """The split that accuracies are of: test where any run has it."""
    for key in SPLITS:
        if any(run.number("accuracy", key) is not None for run in study.runs):
            return key
    return SPLITS[0]


def accuracies(cell: Cell, key: str) -> dict[int, float]:
    """Seed -> accuracy in percent."""
    return {seed: 100 * value for seed, value in cell.values("accuracy", key).items()}


def accuracy(cell: Cell, key: str) -> Summary | None:
    """Mean accuracy over seeds, in percent."""
    return summary(list(accuracies(cell, key).values()))


def is_dense(run: RunRecord) -> bool:
    """Whether nothing is pruned."""
    return not run.recipe.get("strategies")


def is_random(run: RunRecord) -> bool:
    """Whether what is kept was drawn."""
    strategies = run.recipe.get("strategies") or ()
    return any(isinstance(s, dict) and s.get("name") == "random_subnetwork" for s in strategies)


def is_compressed(run: RunRecord) -> bool:
    """Whether tokens are removed."""
    before, after = run.number("tokens", "before"), run.number("tokens", "after")
    return before is not None and after is not None and after < before


def arms_where(study: Study, test: Callable[[RunRecord], bool]) -> list[str]:
    """Arms all of whose runs pass a test."""
    found = []
    for arm in study.arms:
        runs = [run for cell in study.arm_cells(arm) for run in cell.runs.values()]
        if runs and all(test(run) for run in runs):
            found.append(arm)
    return found


def chosen_baselines(study: Study, names: tuple[str, ...] = ()) -> list[Baseline]:
    """The baselines that `names` ask for; else dense, random, uncompressed, and an axis at 0.

    Raises:
        UsageError: a name is no arm and no `axis=label`.
    """
    if names:
        return [_named(study, name) for name in names]
    arms = [*arms_where(study, is_dense), *arms_where(study, is_random)]
    if any(is_compressed(run) for run in study.runs):
        whole = arms_where(study, lambda run: not is_compressed(run))
        arms += [arm for arm in whole if arm not in arms]
    repeated = repeating(study, arms)
    arms = [arm for arm in arms if arm not in repeated]
    found = [Baseline(arm, arm=arm) for arm in arms] if len(study.arms) > 1 else []
    for axis, labels in study.axes.items():
        zero = next((label for label in labels if number_of(label) == 0), None)
        if zero is not None and len(labels) > 1:
            found.append(Baseline(zero, axis=axis))
    if not found and len(study.arms) > 1:
        return [Baseline(study.arms[0], arm=study.arms[0])]
    return found


def repeating(study: Study, arms: Sequence[str]) -> list[str]:
    """Of these arms those that repeat one before, run by run: with other probes, say."""
    before: list[set[object]] = []
    found = []
    for arm in arms:
        own: set[object] = {
            (tuple(cell.labels.items()), seed, fingerprint(settings_of(run)))
            for cell in study.arm_cells(arm)
            for seed, run in cell.runs.items()
        }
        if own and any(own <= other for other in before):
            found.append(arm)
        before.append(own)
    return found


def _named(study: Study, name: str) -> Baseline:
    axis, equals, label = name.partition("=")
    if name in study.arms:
        return Baseline(name, arm=name)
    if equals and label in study.axes.get(axis, ()):
        return Baseline(label, axis=axis)
    places = [f"{axis}={label}" for axis, labels in study.axes.items() for label in labels]
    near = did_you_mean(name, [*study.arms, *places])
    raise UsageError(f"--baseline {name}: no such arm, and no axis=label.{near}")


def differences(study: Study, against: list[Baseline], key: str) -> Iterator[Difference]:
    """Every cell minus each of its baselines, by seed; two baselines meet once.

    Arms that repeat another are left out.
    """
    for cell, baseline in judged(study, against, key):
        reference = baseline.cell_for(cell, study)
        if reference is not None:
            ours, theirs = accuracies(cell, key), accuracies(reference, key)
            pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
            yield Difference(cell, baseline, reference, paired_difference(pairs, POINTS))


def judged(study: Study, against: list[Baseline], key: str) -> Iterator[tuple[Cell, Baseline]]:
    """Each cell that has an accuracy, and each baseline that it is to be judged by."""
    order = [baseline.arm for baseline in against]
    repeated = repeating(study, study.arms)
    for cell in study.cells:
        if cell.arm in repeated or not accuracies(cell, key):
            continue
        before = against[: order.index(cell.arm)] if cell.arm in order else against
        for baseline in [*before, *(b for b in against if b.axis and b not in before)]:
            if baseline.concerns(cell):
                yield cell, baseline
