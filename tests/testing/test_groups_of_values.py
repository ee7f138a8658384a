"""The kit for structures, distributions, schedules: built-ins pass, what is broken is caught."""

from typing import ClassVar, Literal

import pytest
import torch

from prunekit.errors import RecipeError
from prunekit.pruning.distributions import Distribution, Global, Uniform
from prunekit.pruning.distributions.base import split
from prunekit.pruning.schedules import Constant, Linear, OneShot, Schedule
from prunekit.pruning.structures import Block, Group, Grouped, Part, Units, Unstructured
from prunekit.registry import DISTRIBUTIONS, SCHEDULES, STRUCTURES
from prunekit.testing import (
    ConformanceError,
    DistributionTrial,
    ScheduleTrial,
    StructureTrial,
    check_distribution,
    check_schedule,
    check_structure,
)
from prunekit.testing.cases import SMALL_MODELS

SETTINGS = {
    "n_m": {"n": 1, "m": 4},
    "block": {"rows": 2, "columns": 3},
    "multi_step": {"table": [["25%", 0.5], ["50%", 1.0]]},
    "geometric": {"rounds": 3},
    "per_pattern": {"sparsities": {"a*": 0.5}},
}
NAMED = {"a.weight": (4, 3), "a.bias": (4,), "c.weight": (6, 6)}
QKV = ["*qkv.weight"]
"""Where heads are."""


def built_in(registry, without=()):
    return [c.name for c in registry.components() if c.builtin and c.name not in without]


@pytest.mark.parametrize("name", built_in(STRUCTURES))
def test_a_built_in_structure_conforms(name):
    include = QKV if name == "head" else []
    check_structure(STRUCTURES.load(name), SETTINGS.get(name, {}), include=include, examples=10)


def test_multiples_of_channels_conform():
    models = {name: SMALL_MODELS[name] for name in ("mlp", "conv")}
    check_structure(STRUCTURES.load("channel"), {"round_to": 2}, models=models, examples=10)


@pytest.mark.parametrize("name", built_in(DISTRIBUTIONS, ["match"]))
def test_a_built_in_distribution_conforms(name):
    """`match` needs a run; tests/pruning/test_distributions.py has one for it."""
    shapes = NAMED if name == "per_pattern" else None
    settings = {"name": name, **SETTINGS.get(name, {})}
    check_distribution(DISTRIBUTIONS.load(name), settings, shapes=shapes, examples=30)


@pytest.mark.parametrize("name", built_in(SCHEDULES))
def test_a_built_in_schedule_conforms(name):
    check_schedule(SCHEDULES.load(name), {"name": name, **SETTINGS.get(name, {})}, examples=20)


# ---- what is broken


class Split(Unstructured):
    """Units of two that are ranked one by one."""

    def units(self, model, names):
        return Block(rows=1, columns=2).units(model, names)

    def count(self, model, masks):
        return Grouped.count(self, model, masks)


class Shy(Block):
    def select(self, model, demand, distribution):
        masks = super().select(model, demand, distribution)
        next(iter(masks.values())).fill_(True)
        return masks


class Torn(Grouped):
    """The first row of each weight, and nothing of the others."""

    name: Literal["torn"] = "torn"

    def units(self, model, names):
        shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
        return Units(
            {
                n: Group(1, s, (Part(n, s, s, (0,), units=(0, *[-1] * (s[0] - 1)), size=1),))
                for n, s in shapes.items()
            }
        )


class Writing(Unstructured):
    def select(self, model, demand, distribution):
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return super().select(model, demand, distribution)


class Drawing(Unstructured):
    def select(self, model, demand, distribution):
        torch.rand(1)
        return super().select(model, demand, distribution)


class Twice(Unstructured):
    """Ranks upside down where much is pruned."""

    def select(self, model, demand, distribution):
        masks = super().select(model, demand, distribution)
        return {n: m.flip(0) for n, m in masks.items()} if demand.sparsity > 0.5 else masks


class Picky(Unstructured):
    def units(self, model, names):
        raise RecipeError("not these")


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Split, "a unit is split"),
        (Shy, "not the promised|min_keep is"),
        (Torn, "an entry is in no unit"),
        (Writing, "writes the model"),
        (Drawing, "changes a global random state"),
        (Twice, "keeps what .* prunes"),
        (Picky, "refuses all models.*not these"),
    ],
)
def test_a_broken_structure_is_caught(cls, told):
    with pytest.raises(ConformanceError, match=told) as caught:
        check_structure(cls, {}, models={"mlp": SMALL_MODELS["mlp"]}, examples=40)
    if "StructureTrial(" in str(caught.value):  # the case that it shows fails again
        code = str(caught.value).partition("trial = ")[2].partition("\n")[0]
        trial = eval(code, {"StructureTrial": StructureTrial})  # noqa: S307 - our own text
        with pytest.raises(ConformanceError, match=told):
            check_structure(cls, {}, trial=trial)


class Short(Uniform):
    def keep_counts(self, demand):
        counts = super().keep_counts(demand)
        return {n: max(0, k - 1) for n, k in counts.items()} if demand.sparsity else counts


class Deaf(Uniform):
    """Does not hear of `min_keep`."""

    def keep_counts(self, demand):
        return {n: max(0, round((1 - demand.sparsity) * s)) for n, s in demand.sizes.items()}


class Turning(Distribution):
    """All of the first tensor, or of the last, by turns."""

    reads_scores: ClassVar[bool] = False
    name: Literal["turning"] = "turning"

    def keep_counts(self, demand):
        names = list(demand.sizes)[:: 1 if round(20 * demand.sparsity) % 2 else -1]
        return split({n: 10**6 if n == names[0] else 1 for n in demand.sizes}, demand)


class Lying(Global):
    reads_scores: ClassVar[bool] = False


class Lowest(Uniform):
    def select(self, demand):
        return {n: m.flip(0) for n, m in super().select(demand).items()}


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Short, r"sum to|may keep"),
        (Deaf, r"sum to|\(min_keep\)"),
        (Turning, "a higher one may raise the count of no tensor"),
        (Lying, "reads_scores must be True"),
        (Lowest, "prunes a unit that is above"),
    ],
)
def test_a_broken_distribution_is_caught(cls, told):
    with pytest.raises(ConformanceError, match=told):
        check_distribution(cls, {}, examples=60)


class Falling(Linear):
    def share(self, progress):
        return 1 - abs(1 - 2 * float(progress)) if progress < 1 else 1.0


class Late(OneShot):
    """Jumps one step after it says."""

    def at(self, clock):
        return float(clock.active_step > clock.active_steps // 2)

    def changes(self, active_steps, steps_per_epoch):
        return (active_steps // 2,)


class Most(Constant):
    def at(self, clock):
        return 0.999


class Whole(Constant):
    def at(self, clock):
        return 1


class Endless(Linear):
    def check(self, active_steps, steps_per_epoch):
        pass


@pytest.mark.parametrize(
    ("cls", "settings", "told"),
    [
        (Falling, {}, "falls from"),
        (Late, {}, "which is none of changes|must be exactly 1"),
        (Most, {}, "must be exactly 1"),
        (Whole, {}, "not a float"),
        (Endless, {"stop": "100st"}, "ends before the last change"),
        (Linear, {"stop": "100st"}, "refuses all windows"),
    ],
)
def test_a_broken_schedule_is_caught(cls, settings, told):
    with pytest.raises(ConformanceError, match=told):
        check_schedule(cls, settings, examples=30)


def test_a_case_that_is_refused_is_said_where_it_is_the_one_asked_for():
    with pytest.raises(ConformanceError, match="refuses this case"):
        check_schedule(Linear, {"stop": "9st"}, trial=ScheduleTrial(steps=3))
    check_schedule(Linear, {"stop": "9st"}, trial=ScheduleTrial(steps=30))
    check_distribution(Uniform, {}, trial=DistributionTrial(shapes=((3, 3), (2, 1)), sparsity=0.3))
    assert issubclass(Linear, Schedule)
