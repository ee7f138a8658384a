"""Recipes by name: those that come with prunekit, and those of other installed packages."""

from __future__ import annotations

from pathlib import Path

from prunekit.components.installed import Component, own_version
from prunekit.components.names import AmbiguousNameError, UnknownNameError, resolve, usable_names
from prunekit.components.recipes import installed_recipes
from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean

PACKAGE = Path(__file__).resolve().parent


def shipped_recipes() -> dict[str, Path]:
    """Bare name -> file of what comes with prunekit, in order of names.

    They lie in `prunekit/recipes` in a wheel, in `recipes` in a checkout.
    """
    return _files_in("recipes")


def shipped_sweeps() -> dict[str, Path]:
    """Bare name -> file of the sweeps that come with prunekit: in `sweeps` beside its recipes."""
    return _files_in("recipes/sweeps")


def _files_in(folder: str) -> dict[str, Path]:
    for place in (PACKAGE / folder, PACKAGE.parent / folder):
        if place.is_dir():
            return {path.stem: path for path in sorted(place.glob("*.yaml"))}
    return {}


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
    known = named_recipes()
    problem = "is a folder" if path.is_dir() else "does not exist"
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
