"""Recipes by name: those that come with prunekit, and those of other installed packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry.installed import (
    RECIPES,
    AmbiguousNameError,
    Component,
    UnknownNameError,
    installed_components,
    own_version,
    resolve,
    usable_names,
)
from prunekit.registry.source import find_spec

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package; the recipes lie in it or beside it."""


def shipped_recipes() -> dict[str, Path]:
    """Bare name -> file of what comes with prunekit, in order of names.

    They lie in `prunekit/recipes` in a wheel, in `recipes` in a checkout.
    """
    return _files_in("recipes")


def shipped_sweeps() -> dict[str, Path]:
    """Bare name -> file of the sweeps that come with prunekit: in `sweeps` beside its recipes."""
    return _files_in("recipes/sweeps")


def shipped_folder(folder: str) -> Path:
    """Where a folder of what comes with prunekit lies; it need not be there."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def _files_in(folder: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(shipped_folder(folder).glob("*.yaml"))}


def named_recipes() -> dict[str, Component]:
    """Every recipe by the name that finds it, those of prunekit first; `value` is its file.

    As for components: a name of prunekit's own stays its own, and what shares a name is called
    `distribution:name`.
    """
    own = own_version()
    known = [
        Component("recipe", name, str(path), "prunekit", own, True)
        for name, path in shipped_recipes().items()
    ]
    known += installed_recipes()
    return dict(zip(usable_names(known), known, strict=True))


def recipe_named(name: str) -> Path:
    """The file of the recipe with this name.

    Raises:
        UnknownNameError: there is none.
        AmbiguousNameError: two packages have one; says what to write.
    """
    recipe = resolve(name, "recipe", list(named_recipes().values()))
    if name not in (recipe.name, recipe.qualified):  # a recipe has no variants
        raise UnknownNameError(f"no recipe is called {name!r}")
    return Path(recipe.value)


def find_recipe(text: str) -> Path:
    """The file that a RECIPE argument means: a path, or the name of an installed recipe.

    Raises:
        UsageError: neither, or a name that two packages give.
    """
    path = Path(text)
    if path.is_file():
        return path
    try:
        return recipe_named(text)
    except AmbiguousNameError as error:
        raise UsageError(str(error)) from error
    except UnknownNameError:
        pass
    if text in shipped_sweeps():
        raise UsageError(f"{text}: is a sweep: `prunekit sweep {text}` runs it")
    known = named_recipes()
    there = "is a folder" if path.is_dir() else "is no regular file"
    problem = there if path.exists() else "does not exist"
    if near := did_you_mean(path.name.removesuffix(path.suffix), known):
        raise UsageError(f"{text}: {problem}.{near} (a recipe by its name)")
    raise UsageError(
        f"{text}: {problem}: give a recipe file, or a name that `prunekit init --list` shows"
    )


def headline(path: Path) -> str:
    """The first line of the comment at the head of a recipe; empty where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return next(lines, "").lstrip("# ").rstrip()
    except OSError:
        return ""


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
