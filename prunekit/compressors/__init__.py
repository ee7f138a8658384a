"""Modules that shorten a token sequence inside a forward pass; one file an algorithm.

Knows tokens and nothing of models, pruning or training. The rooms above may import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.compressors.base import DataCompressor


def compressor(name: str, **settings: Any) -> DataCompressor:
    """A compressor by its registered name, with settings as in a recipe.

    `compressor("tome", ratio=0.5)`

    Raises:
        RecipeError: an unknown name, or settings that its `Config` refuses (a `ValueError` too).
        PluginError: its module could not be imported.
    """
    from prunekit.registry import COMPRESSORS
    from prunekit.registry.make import make

    made: DataCompressor = make(COMPRESSORS, name, settings)
    return made
