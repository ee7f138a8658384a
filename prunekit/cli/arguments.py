"""Recipes and overrides on one command line, and what a shell completes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from prunekit.errors import UsageError
from prunekit.recipe.find import named_recipes, shipped_sweeps


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Recipes, and overrides: an argument with `=` that is not an existing file."""
    overrides = [arg for arg in arguments if "=" in arg and not Path(arg).is_file()]
    return [arg for arg in arguments if arg not in overrides], overrides


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what cannot be an override.

    Raises:
        UsageError: a word without `=`.
    """
    for word in overrides:
        if "=" not in word:
            raise UsageError(
                f"{word!r} is no override: write key=value, such as data.batch_size=64"
            )


def complete_recipe(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes by name and the recipe files of this folder; else whatever the shell finds."""
    names = [*named_recipes(), *sorted(str(path) for path in Path().glob("*.y*ml"))]
    items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return items or [CompletionItem(incomplete, type="file")]


def complete_sweep(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """As `complete_recipe`, the shipped sweeps first."""
    sweeps = [CompletionItem(name) for name in shipped_sweeps() if name.startswith(incomplete)]
    return [*sweeps, *complete_recipe(ctx, param, incomplete)]
