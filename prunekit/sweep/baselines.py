"""The runs that an honest comparison needs beside a recipe: dense, random, match, one-shot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prunekit.errors import UsageError
from prunekit.recipe.schema import Recipe

ONE_SHOT_AT = "60%"
"""Of the run: dense before, fine-tuning after, as in docs/comparison.md."""
NAMES = ("dense", "random", "match", "one_shot")
SHARED = ("sparsity", "scope", "structure", "min_keep")
"""Keys of a strategy that its baselines have too."""
PLAIN: tuple[Any, ...] = (None, 0, {"name": "unstructured"}, {"include": [], "exclude": []})
"""Their defaults."""

Tree = dict[str, Any]


def base_name(recipe: Recipe) -> str:
    """What the arm of the recipe itself is called."""
    return "recipe" if recipe.name in NAMES else recipe.name


def baseline_arms(recipe: Recipe, axes: Mapping[str, str]) -> tuple[dict[str, Tree], list[str]]:
    """Arms of a sweep file, and a sentence for each baseline that cannot be planned.

    They differ from the recipe in its strategies alone; a phase that rewinds goes on instead, as
    all take the same number of steps from one start.

    Args:
        recipe: what is compared.
        axes: axis -> recipe key.

    Raises:
        UsageError: the recipe prunes nothing, or an axis replaces whole strategies.
    """
    if not recipe.strategies:
        raise UsageError(f"--baselines: {recipe.name} prunes nothing: it is the dense baseline")
    strategies = [strategy.model_dump(mode="json") for strategy in recipe.strategies]
    method, shared = _split_axes(axes, len(strategies))
    changes: Tree = {
        f"phases.{i}.start": "continue"
        for i, phase in enumerate(recipe.phases)
        if phase.start == "anchor"
    }
    dense = {"set": {**changes, "strategies": []}, "collapse": [*method, *shared]}
    arms: dict[str, Tree] = {base_name(recipe): {}, "dense": dense}
    if reason := _nothing_comparable(strategies):
        return arms, [f"no random, match and one-shot baseline: {reason}"]
    arms["random"] = {
        "set": {**changes, "strategies": [_random(each) for each in strategies]},
        "collapse": method,
    }
    arms["one_shot"] = {
        "set": {**changes, "strategies": [_one_shot(each) for each in strategies]},
        "collapse": method,
    }
    if any(_structure(each) for each in strategies):
        return arms, ["no match baseline: it compares single weights, not structures"]
    source = {"name": "match", "source": "the run of the recipe"}
    arms["match"] = {
        "set": {
            **changes,
            "strategies": [{**_random(each), "distribution": source} for each in strategies],
        },
        "without": method,
        "needs": {
            f"strategies.{i}.distribution.source": base_name(recipe) for i in range(len(strategies))
        },
    }
    return arms, []


def _nothing_comparable(strategies: Sequence[Tree]) -> str | None:
    """Why single weights at the same sparsity are no baseline; None where they are."""
    for strategy in strategies:
        if "sparsity" not in strategy:
            return f"the sparsity of {strategy['name']} emerges, so it cannot be planned"
        if "distribution" not in strategy:
            return f"{strategy['name']} prunes units of its own, which they would not"
    return None


def _split_axes(axes: Mapping[str, str], count: int) -> tuple[list[str], list[str]]:
    """Axes of the method alone, and those of strategies that baselines share."""
    method: list[str] = []
    shared: list[str] = []
    for name, path in axes.items():
        first, *rest = path.split(".")
        if first != "strategies":
            continue
        if len(rest) < 2 or not re.fullmatch(r"[0-9]+", rest[0]) or int(rest[0]) >= count:
            raise UsageError(
                f"--baselines: {path} replaces strategies, so it is not known what to compare "
                "with: write the arms in a sweep file"
            )
        (shared if rest[1] in SHARED else method).append(name)
    return method, shared


def _common(strategy: Tree) -> Tree:
    return {key: strategy[key] for key in SHARED if strategy.get(key) not in PLAIN}


def _random(strategy: Tree) -> Tree:
    common = _common(strategy)
    return {"name": "random_subnetwork", "sparsity": 0.0, **common, "distribution": "uniform"}


def _one_shot(strategy: Tree) -> Tree:
    """One cut by |w|, split over the tensors as the recipe splits its own."""
    distribution = strategy.get("distribution")
    own = isinstance(distribution, dict) and distribution["name"] != "match"
    return {
        "name": "magnitude",
        "mode": "hard",
        "sparsity": 0.0,
        **_common(strategy),
        "schedule": {"name": "one_shot", "start": ONE_SHOT_AT},
        "cadence": {"every": "once"},
        "distribution": distribution if own else "global",
    }


def _structure(strategy: Tree) -> bool:
    structure = strategy.get("structure")
    return isinstance(structure, dict) and structure["name"] != "unstructured"
