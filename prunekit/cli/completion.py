"""What a shell is given to complete a word of the command line with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunekit.cli.common import KINDS, kind_named, registry_of
from prunekit.errors import UsageError
from prunekit.recipe.find import named_recipes, shipped_sweeps

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_recipe(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes by name and the recipe files of this folder; else whatever the shell finds."""
    names = [*named_recipes(), *sorted(str(path) for path in Path().glob("*.y*ml"))]
    items = _beginning(incomplete, names)
    return items or [_item(incomplete, type="file")]


def complete_sweep(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """As `complete_recipe`, the shipped sweeps first."""
    sweeps = _beginning(incomplete, shipped_sweeps())
    return [*sweeps, *complete_recipe(ctx, param, incomplete)]


def complete_kind(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Kinds."""
    return _beginning(incomplete, KINDS)


def complete_component(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Kinds and names for the first word of `show`, the names of its kind for the second."""
    words = ctx.params.get("words") or ()
    try:
        kinds = [kind_named(words[0])] if words else list(KINDS)
    except UsageError:
        return []
    names = [name for kind in kinds for name in registry_of(kind).names()]
    return _beginning(incomplete, names if words else [*KINDS.values(), *names])


def _beginning(incomplete: str, words: Any) -> list[CompletionItem]:
    return [_item(word) for word in words if word.startswith(incomplete)]


def _item(word: str, **settings: str) -> CompletionItem:
    from click.shell_completion import CompletionItem  # which only a shell asks for

    return CompletionItem(word, **settings)
