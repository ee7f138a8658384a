"""Pruning strategies: one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.pruning.strategies.base import PruningStrategy


def strategy(name: str, **settings: Any) -> PruningStrategy:
    """A strategy by its registered name, with settings as in a recipe.

    `strategy("magnitude", sparsity=0.9, cadence={"every": "50st"})`

    Raises:
        RecipeError: an unknown name, or settings that its `Config` refuses (a `ValueError` too).
        PluginError: its module could not be imported.
    """
    from prunekit.registry import STRATEGIES
    from prunekit.registry.make import make

    made: PruningStrategy = make(STRATEGIES, name, settings)
    return made
