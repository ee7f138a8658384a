"""The kinds of components as a person writes them, and their registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean

if TYPE_CHECKING:
    from prunekit.registry import Registry

KINDS = {
    "strategies": "strategy",
    "compressors": "compressor",
    "models": "model",
    "data": "dataset",
    "probes": "probe",
}
"""The word of the command line -> the kind of the registry."""


def kind_named(word: str) -> str:
    """The word of `KINDS` that is meant: `strategy` and `strategies` are the same.

    Raises:
        UsageError: no such kind.
    """
    for plural, singular in KINDS.items():
        if word in (plural, singular):
            return plural
    near = did_you_mean(word, [*KINDS, *KINDS.values()])
    raise UsageError(f"no kind {word!r}.{near} Kinds are: {', '.join(KINDS)}")


def registry_of(kind: str) -> Registry:
    """The registry of a word of `KINDS`."""
    from prunekit.registry import REGISTRIES

    return REGISTRIES[KINDS[kind]]


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
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
