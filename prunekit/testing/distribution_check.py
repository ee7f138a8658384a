"""What must hold of a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from prunekit.foundation.seeding import seed_for
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.selection import keep_count
from prunekit.testing.cases import switches
from prunekit.testing.faults import ConformanceError, faults_of, refusals, report
from prunekit.testing.search import failure, smallest_failure, st
from prunekit.testing.settings import checked_settings

Shapes = Mapping[str, tuple[int, ...]]
NEVER = 0.3
"""Share of the units that may not come back, where some may not."""


@dataclass(frozen=True, slots=True)
class DistributionTrial:
    """Some tensors, and how much of them is to be pruned."""

    shapes: tuple[tuple[int, ...], ...] | None = ((2, 2),)
    """Of the weights, `layers.0.weight` and so on; None: those that were given by name."""
    units: bool = False
    """Whether a unit is a row of a weight and not an entry."""
    sparsity: float = 0.5
    more: float = 0.5
    """A sparsity that is not lower."""
    min_keep: int = 0
    scores: Literal["distinct", "ties", "never"] = "distinct"
    """`never`: some are -inf, as those of units that may not come back."""
    seed: int = 0


def check_distribution(
    cls: type[Distribution],
    config: Distribution | Mapping[str, Any],
    *,
    shapes: Shapes | None = None,
    examples: int = 100,
    trial: DistributionTrial | None = None,
) -> None:
    """Check all that the contract asks of a distribution, on random scores on the CPU.

    Tensors that it refuses, by a RecipeError, are left out.

    Args:
        cls: the distribution.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        shapes: name -> shape of the weights to try, where the settings name some; None: drawn.
        examples: demands to draw.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: Distribution = checked_settings(cls, config, Distribution, Distribution)
    taken = []

    def check(case: DistributionTrial) -> None:
        _check(settings, case, shapes)
        taken.append(case)

    def find() -> tuple[DistributionTrial, ConformanceError] | None:
        if trial is not None:
            return failure(check, trial)
        found = smallest_failure(check, _trials(given=shapes is not None), examples)
        if found is None and not taken:
            raise ConformanceError("it refuses all tensors: give some that it takes in shapes=")
        return found

    report("distribution", cls, settings, find)


@st.composite
def _trials(draw: st.DrawFn, given: bool) -> DistributionTrial:
    sides = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)
    low, high = sorted(draw(st.tuples(*[st.integers(0, 100)] * 2)))
    return DistributionTrial(
        shapes=None if given else tuple(draw(st.lists(sides, min_size=1, max_size=5))),
        units=draw(st.booleans()),
        sparsity=low / 100,
        more=high / 100,
        min_keep=draw(st.integers(0, 3)),
        scores=draw(st.sampled_from(["distinct", "ties", "never"])),
        seed=draw(st.integers(0, 2**16)),
    )


def _check(distribution: Distribution, case: DistributionTrial, given: Shapes | None) -> None:
    """Everything of one demand.

    Raises:
        ConformanceError: what is broken.
        RefusedError: the distribution refuses the tensors.
    """
    demand, outside = _demand(case, given, case.seed), switches()
    before = {name: score.clone() for name, score in demand.scores.items()}
    with refusals("check or keep_counts"):
        distribution.check(demand.sizes, case.sparsity)
        counts = distribution.keep_counts(demand)
    _counts_fit(counts, demand)
    _masks_fit(distribution, demand, counts)
    with faults_of("keep_counts"):
        again = distribution.keep_counts(_demand(case, given, case.seed))
        fewer = distribution.keep_counts(replace(demand, sparsity=case.more))
        others = distribution.keep_counts(_demand(case, given, case.seed + 1))
    if again != counts:
        raise ConformanceError(f"keep_counts is not pure: asked twice, {counts}, then {again}")
    _counts_fit(fewer, replace(demand, sparsity=case.more))
    for name in counts:
        if fewer[name] > counts[name]:
            raise ConformanceError(
                f"{name} keeps {counts[name]} at sparsity {case.sparsity} and {fewer[name]} at "
                f"{case.more}: a higher one may raise the count of no tensor"
            )
    if not distribution.reads_scores and others != counts:
        raise ConformanceError(
            f"counts are {counts} and, of other scores, {others}: reads_scores must be True"
        )
    if any(not torch.equal(before[name], demand.scores[name]) for name in before):
        raise ConformanceError("writes scores")
    if switches() != outside:
        raise ConformanceError("changes a global random state or switch: it may draw nothing")


def _demand(case: DistributionTrial, given: Shapes | None, seed: int) -> Demand:
    shapes: Shapes = given or {}
    if case.shapes is not None:
        names = (f"layers.{i}.weight" for i in count())
        shapes = dict(zip(names, case.shapes, strict=False))
    generator = torch.Generator().manual_seed(seed_for(seed, "scores"))
    scores = {
        name: _scores(shape[:1] if case.units else shape, case.scores, generator)
        for name, shape in shapes.items()
    }
    return Demand(scores, case.sparsity, case.min_keep, shapes=shapes)


def _scores(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    score, scale = torch.rand(shape, generator=generator), torch.rand((), generator=generator)
    if kind == "ties":
        return (3 * score).floor()
    if kind == "never":
        score = score.masked_fill(torch.rand(shape, generator=generator) < NEVER, float("-inf"))
    return score * (scale + 1)


def _counts_fit(counts: Any, demand: Demand) -> None:
    """Whole numbers between floor and size, of all tensors, that sum to what is asked."""
    sizes, floors = demand.sizes, demand.floors
    if not (isinstance(counts, dict) and counts.keys() == sizes.keys()):
        raise ConformanceError(f"keep_counts gives {counts!r}, not a count for each of {[*sizes]}")
    for name, kept in counts.items():
        if type(kept) is not int or not floors[name] <= kept <= sizes[name]:
            raise ConformanceError(
                f"{name} keeps {kept!r} of {sizes[name]} units, where it may keep {floors[name]} "
                f"(min_keep) to {sizes[name]}"
            )
    total, asked = sum(sizes.values()), demand.keep
    if sum(counts.values()) != asked:
        raise ConformanceError(
            f"counts {counts} sum to {sum(counts.values())}: at sparsity {demand.sparsity} "
            f"{asked} of {total} units stay, no more and no less "
            f"({keep_count(total, demand.sparsity)} without min_keep)"
        )


def _masks_fit(distribution: Distribution, demand: Demand, counts: Mapping[str, int]) -> None:
    """As many as counted, and of each tensor the highest."""
    with faults_of("select"):
        masks = distribution.select(demand)
    if masks.keys() != demand.scores.keys():
        raise ConformanceError(f"select gives masks of {[*masks]}, not of {[*demand.scores]}")
    for name, score in demand.scores.items():
        mask = masks[name]
        if mask.dtype != torch.bool or mask.shape != score.shape:
            raise ConformanceError(f"{name}: a mask of {mask.dtype} {tuple(mask.shape)}")
        if int(mask.sum()) != counts[name]:
            raise ConformanceError(
                f"{name}: select keeps {int(mask.sum())} units, keep_counts says {counts[name]}"
            )
        kept, pruned = score[mask], score[~mask]
        if kept.numel() and pruned.numel() and kept.min() < pruned.max():
            raise ConformanceError(f"{name}: select prunes a unit that is above one that it keeps")
