"""Which strategy has which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from prunekit.errors import RecipeError
from prunekit.strategies.base import PruningStrategy


@dataclass
class Assigned:
    """A strategy with the parameters that it was given."""

    strategy: PruningStrategy
    label: str
    scope: tuple[str, ...]
    """Names that the strategy scores."""
    cover: tuple[str, ...]
    """Names that its masks reach."""
    updated_at: int = -1
    """Steps done when the last update can first be seen: one inside a step, after that step."""
    flips: dict[str, int] = field(default_factory=dict)
    """Entries of each tensor that changed at the last update."""
    target: float | None = None
    """Sparsity promised at the last update."""


def assign(
    model: nn.Module, strategies: Sequence[PruningStrategy], *, check: bool = True
) -> list[Assigned]:
    """Resolve the scopes of the strategies, and `check` that their settings fit them.

    Raises:
        RecipeError: a pattern matches nothing, two scopes overlap, or a mode does not fit.
    """
    owner: dict[str, str] = {}
    result = []
    for index, strategy in enumerate(strategies):
        config = strategy.config
        label = config.name if _count(strategies, config.name) == 1 else f"{config.name}#{index}"
        if config.mode not in strategy.modes:
            raise RecipeError(
                f"strategies.{index}.mode: {config.name} does not work in mode {config.mode!r}: "
                f"use {' or '.join(strategy.modes)}"
            )
        try:
            scope = tuple(config.scope.select(model, strategy.default_scope))
        except RecipeError as error:
            raise RecipeError(f"strategies.{index}.{error}") from error
        cover = tuple(strategy.cover(model, scope))
        if check:
            strategy.check_scope(model, scope)
        for name in cover:
            if name in owner:
                raise RecipeError(
                    f"strategies.{index}.scope: {name} is already in the scope of {owner[name]}: "
                    "give the strategies disjoint scopes (scope.include, scope.exclude)"
                )
            owner[name] = label
        result.append(Assigned(strategy, label, scope, cover))
    return result


def _count(strategies: Sequence[PruningStrategy], name: str) -> int:
    return sum(strategy.config.name == name for strategy in strategies)
