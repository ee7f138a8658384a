"""Which registered names the cases use, and which none uses, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from prunekit.recipe.load import recipe_from
from tests.rehearsal.recipes import Case, Tree

NOT_REHEARSED: dict[str, dict[str, str]] = {
    "optimizers": dict.fromkeys(("lbfgs", "muon", "sparseadam"), "runs refuse it"),
}
"""Kind -> name -> why."""


def choices(owner: type[BaseModel], key: str) -> set[str]:
    """The words that a key takes."""
    return set(get_args(owner.model_fields[key].annotation))


def names_used(cases: Iterable[Case]) -> dict[str, set[str]]:
    """Kind -> names that stand in a case, defaults of its recipe with them."""
    used: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for kind, name in _names(case.tree):
            used[kind].add(name.partition(":")[0] if kind == "model" else name)
    return used


def _names(tree: Tree) -> Iterator[tuple[str, str]]:
    """With placeholders in it, so nothing that a name stands for is opened."""
    recipe = recipe_from(tree)
    for kind in ("data", "model", "loss", "optimizer"):
        yield KINDS.get(kind, kind), getattr(recipe, kind).name
    for kind in ("strategies", "compressors", "probes", "loggers"):
        for one in getattr(recipe, kind):
            yield KINDS[kind], one.name
    for one in recipe.data.augment:  # one without settings is its name
        yield "augmentations", one if isinstance(one, str) else one.name
    for strategy in recipe.strategies:
        for key in ("schedule", "distribution", "structure"):
            if value := getattr(strategy, key, None):
                yield key, value.name
    for phase in recipe.phases:
        yield "lr_schedules", phase.lr_schedule.name
        yield from (("start", phase.start), ("keep", phase.keep))
    yield from (("precision", recipe.precision), ("finish", recipe.finish))


KINDS: dict[str, Any] = {
    "data": "dataset",
    "optimizer": "optimizers",
    "strategies": "strategy",
    "compressors": "compressor",
    "probes": "probe",
    "loggers": "logger",
}
