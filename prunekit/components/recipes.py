"""The recipes of installed packages, found without importing one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prunekit.components.installed import RECIPES, Component, installed_components
from prunekit.components.source import find_spec


def recipe_folders() -> list[Component]:
    """The entry points of the group `prunekit.recipes`: each value names a folder in a package."""
    return [c for c in installed_components(tuple(sys.path)) if c.kind == RECIPES]


def installed_recipes() -> list[Component]:
    """The recipes of third parties by the names of their files; `value` is the path.

    Of two files of one name in one distribution the first counts.
    """
    found: dict[str, Component] = {}
    for folder in recipe_folders():
        for path in recipe_files(folder.value):
            recipe = replace(folder, kind="recipe", name=path.stem, value=str(path))
            found.setdefault(recipe.qualified, recipe)
    return sorted(found.values(), key=lambda recipe: (recipe.name, recipe.qualified))


def recipe_files(value: str) -> list[Path]:
    """The recipes in the folder `package.folder`; none where there is no such folder."""
    try:
        return [path for folder in _folders(value) for path in sorted(folder.glob("*.yaml"))]
    except Exception:  # any finder, any file system: one package must not stop the others
        return []


def _folders(value: str) -> Iterator[Path]:
    """`package.folder` as folders; a package in several places has several.

    Only the top-level package is looked up: a folder of files need not be a package itself.
    """
    package, *inner = value.split(".")
    spec = find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or ():
        yield Path(place, *inner)
