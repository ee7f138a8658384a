"""When two recipes are the same experiment, also across formats. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from prunekit.foundation.values import NewKey
from prunekit.recipe.schema import Recipe
from prunekit.registry.own_code import code_of

NOT_HASHED = ("name", "device", "logging", "loggers", "checkpoint", "probes")
"""Keys that make no other experiment: what it is called, where it is computed, and what watches or
saves it. The device stands in the manifest, as the machine does."""
NOT_IN_CELL = ("name", "device", "loggers", "checkpoint")
"""Keys that do not change what a run leaves behind; probes and logging do. Loggers write what
`metrics.jsonl` holds in any case: to name another one must not make finished runs anew."""
NOT_HASHED_DATA = ("root", "download")
"""Where the same data comes from."""


def recipe_hash(recipe: Recipe) -> str:
    """64 hexadecimal digits, equal for recipes that must give the same result.

    Evaluation counts, as it chooses weights under `keep: best`; threads, precision, compile and
    micro_batch count, as they change last bits. So does the content of the user's own file that a
    name stands for; a recipe that names none has the hash that it had before there were such.
    """
    return _digest(recipe, NOT_HASHED)


def cell_key(recipe: Recipe) -> str:
    """64 hexadecimal digits, equal for recipes that leave the same run behind.

    As `recipe_hash`, but what is logged and probed counts, as a run without it cannot stand for one
    with it.
    """
    return _digest(recipe, NOT_IN_CELL)


def _digest(recipe: Recipe, left_out: Collection[str]) -> str:
    """The SHA-256 of the recipe with every default written out, as JSON with sorted keys.

    Left out are those keys, `NOT_HASHED_DATA` of `data`, and what stands as it did before there was
    the key: see `NewKey`.
    """
    tree = recipe.model_dump(mode="json", exclude=set(left_out))
    _leave_out(recipe, tree)
    for key in NOT_HASHED_DATA:
        tree["data"].pop(key, None)
    counted = [getattr(recipe, key) for key in type(recipe).model_fields if key not in left_out]
    if (code := code_of(counted)) is not None:
        tree["sha256 of its code"] = code.sha256
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def as_before(recipe: Recipe) -> list[str]:
    """The dotted keys that stand as they did before there were such keys: no part of a hash."""
    return list(_leave_out(recipe, recipe.model_dump(mode="json")))


def _leave_out(value: Any, tree: Any, path: str = "") -> list[str]:
    """Take what stands as before out of `tree`, the JSON of `value`; the dotted keys of it."""
    gone = []
    for key, inner, mark in _parts(value, tree):
        below = f"{path}.{key}" if path else str(key)
        gone += _leave_out(inner, tree[key], below)
        if mark is not None and tree[key] == mark.before:
            del tree[key]
            gone = [one for one in gone if not one.startswith(f"{below}.")] + [below]
    return gone


def _parts(value: Any, tree: Any) -> Iterator[tuple[Any, Any, NewKey | None]]:
    """(key or position, value, mark) of what `value` holds and `tree` has."""
    if isinstance(value, BaseModel) and isinstance(tree, dict):
        for key, field in type(value).model_fields.items():
            if key in tree:
                mark = next((m for m in field.metadata if isinstance(m, NewKey)), None)
                yield key, getattr(value, key), mark
    elif isinstance(value, Mapping) and isinstance(tree, dict):
        yield from ((key, value[key], None) for key in list(tree) if key in value)
    elif isinstance(value, list | tuple) and isinstance(tree, list):
        yield from ((i, inner, None) for i, inner in enumerate(value))
