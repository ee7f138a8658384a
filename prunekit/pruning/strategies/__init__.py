"""Pruning strategies: one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.pruning.strategies.base import PruningStrategy


def strategy(name: str, **settings: Any) -> PruningStrategy:
    """A strategy by its registered name, with settings as in a recipe.

    `strategy("magnitude", sparsity=0.9, cadence={"every": "50st"})`

    Raises:
        ValueError: an unknown name, or settings that its `Config` refuses.
        PluginError: its module could not be imported.
    """
    from prunekit.registry import STRATEGIES

    made: PruningStrategy = STRATEGIES.create(STRATEGIES.parse({"name": name, **settings}))
    return made
