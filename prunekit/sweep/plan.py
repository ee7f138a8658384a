"""Which runs a sweep is, and what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunekit.recipe.identity import NOT_HASHED_DATA
from prunekit.recipe.schema import Recipe
from prunekit.sweep.directory import FORMAT

NOT_IN_KEY = ("name", "checkpoint")
"""Recipe keys that do not change what a run leaves behind; probes and logging do."""
SOURCE = "cell:"
"""Stands, with the key of a cell, for the path of its run until there is one."""
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One run to be made."""

    id: str
    arm: str
    axes: Labels
    also: tuple[Labels, ...]
    key: str
    needs: Mapping[str, str]
    """Recipe key -> cell id."""
    sources: Mapping[str, str]
    """Recipe key -> cell key."""
    recipe: Recipe
    """With `cell:<key>` where the path of another run will stand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a sweep; what a cell needs stands before it."""

    name: str
    axes: Mapping[str, tuple[str, ...]]
    arms: tuple[str, ...]
    cells: tuple[PlannedCell, ...]

    def document(self) -> dict[str, Any]:
        """As `plan.json` holds it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "axes": {axis: list(labels) for axis, labels in self.axes.items()},
            "arms": list(self.arms),
            "cells": [
                {
                    "id": cell.id,
                    "arm": cell.arm,
                    "axes": dict(cell.axes),
                    "key": cell.key,
                    "needs": dict(cell.needs),
                    "also": [dict(labels) for labels in cell.also],
                }
                for cell in self.cells
            ],
        }


def cell_key(recipe: Recipe) -> str:
    """64 hexadecimal digits, equal for recipes that leave the same run behind.

    As `recipe_hash`, but what is logged and probed counts, as a run without it cannot stand for one
    with it.
    """
    tree = recipe.model_dump(mode="json", exclude=set(NOT_IN_KEY))
    for key in NOT_HASHED_DATA:
        tree["data"].pop(key, None)
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
