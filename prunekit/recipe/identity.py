"""When two recipes are the same experiment. Imports no torch."""

from __future__ import annotations

import hashlib
import json

from prunekit.recipe.schema import Recipe

NOT_HASHED = ("name", "logging", "checkpoint", "probes")
"""Keys that cannot change the result: what it is called, and what watches or saves it."""
NOT_HASHED_DATA = ("root", "download")
"""Where the same data comes from."""


def recipe_hash(recipe: Recipe) -> str:
    """64 hexadecimal digits, equal for recipes that must give the same result.

    The SHA-256 of the recipe with every default written out, as JSON with sorted keys, without
    `NOT_HASHED` and without `NOT_HASHED_DATA` of `data`. Evaluation counts, as it chooses weights
    under `keep: best`; threads, precision, compile and micro_batch count, as they change last bits.
    """
    tree = recipe.model_dump(mode="json", exclude=set(NOT_HASHED))
    for key in NOT_HASHED_DATA:
        tree["data"].pop(key, None)
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
