"""What a valid recipe may be told of: it runs, but not to what its author may think."""

from __future__ import annotations

from collections.abc import Iterator

from prunekit.recipe.schema import Recipe

WITHIN_UNITS = {"unstructured", "n_m", "block"}
"""Structures that leave no whole head or channel empty but by chance."""


def notes(recipe: Recipe) -> Iterator[str]:
    """Sentences that begin with a key."""
    structures = [getattr(one, "structure", None) for one in recipe.strategies]
    names = [getattr(one, "name", None) for one in structures]
    if recipe.finish == "compact" and all(name in WITHIN_UNITS for name in names):
        yield (
            "finish: compact has nothing to remove, as no strategy prunes whole units: give one "
            "the structure head or channel"
        )
