"""What a command line asks for: a sweep file or a recipe, words on top of it, baselines."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunekit.errors import RecipeError, UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.recipe.document import RecipeFault, SourceDocument
from prunekit.recipe.find import find_recipe, shipped_folder, shipped_sweeps
from prunekit.recipe.load import (
    as_lines,
    read_text,
    read_text_document,
    recipe_from_document,
    recipe_from_text,
)
from prunekit.recipe.overrides import apply_change
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import yaml_text
from prunekit.sweep.baselines import base_name, baseline_arms
from prunekit.sweep.design import Change, Design, read_design
from prunekit.sweep.file import Word, label, read_word
from prunekit.sweep.published import read_published

SWEEP_KEYS = {"recipe", "axes", "arms"}
"""A file with one of them is a sweep, another a recipe."""


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """A sweep that was asked for."""

    design: Design
    text: str
    """The sweep file."""
    words: tuple[str, ...]
    """What was said on top of it."""
    notes: tuple[str, ...] = field(default=())
    reference: str = ""
    """The CSV file with what others published, if the sweep names one."""


def read_command_line(
    target: str,
    words: Sequence[str] = (),
    *,
    with_baselines: bool = False,
    format_of: Callable[[str], int | None] = lambda name: None,
    reading: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> SweepRequest:
    """Find and read what a command line means.

    Args:
        target: a sweep file or a recipe, by its path or its name.
        words: `key=value,...`; several values are an axis, one holds in every run.
        with_baselines: add the baselines of a recipe.
        format_of: the earlier format of recipes that the sweep with this name was begun with, if it
            was: baselines share settings that the recipe leaves to its defaults.
        reading: entered with the name of the sweep while its recipe is read.

    Raises:
        UsageError: there is no such file; a word that means nothing or is there twice; baselines
            for a sweep file.
        RecipeError: everything that is wrong with the file itself.
    """
    path = find_file(target)
    text = read_text(path)
    document = read_text_document(text, str(path))
    read = [read_word(word, i) for i, word in enumerate(words)]
    _check_words(read)
    if isinstance(document.root, dict) and SWEEP_KEYS & document.root.keys():
        if with_baselines:
            raise UsageError(f"--baselines: {target} is a sweep: write them as its arms")
        return _of_sweep(path, text, document, read, tuple(words))
    if not isinstance(document.root, dict):
        recipe_from_text(text, source=str(path))  # says what is wrong
    name = next((word.values[0] for word in read if word.key == "name"), document.root.get("name"))
    with reading(str(name)):
        return _of_recipe(path, document, read, format_of if with_baselines else None)


def is_sweep_file(path: Path) -> bool:
    """Whether a file is a sweep, and not a recipe.

    Raises:
        RecipeError, UsageError: it cannot be read.
    """
    root = read_text_document(read_text(path), str(path)).root
    return isinstance(root, dict) and bool(SWEEP_KEYS & root.keys())


def _check_words(words: Sequence[Word]) -> None:
    for i, word in enumerate(words):
        if word.key in [other.key for other in words[:i]]:
            raise UsageError(f"{word.key} is given twice")
        if word.key == "name" and len(word.values) > 1:
            raise UsageError("name: give one: it is that of the sweep")


def find_file(target: str) -> Path:
    """A path, the name of a sweep that comes with prunekit, or the name of an installed recipe.

    Raises:
        UsageError: none of these.
    """
    return (
        Path(target)
        if Path(target).is_file()
        else shipped_sweeps().get(target) or find_recipe(target)
    )


def _of_sweep(
    path: Path, text: str, document: SourceDocument, words: Sequence[Word], given: tuple[str, ...]
) -> SweepRequest:
    def find(recipe: str) -> Path:
        beside = path.parent / recipe
        return beside if beside.is_file() else find_recipe(recipe)

    last = []
    for word in words:
        if word.key == "name":
            document.root["name"] = word.values[0]
            document.values[("name",)] = word.place
        elif not _narrow_axis(document, word):
            if len(word.values) == 1:
                last.append(Change(word.key, word.values[0], word.place))
            else:
                _add_axis(document, word)
    design = read_design(document, find, last)
    return SweepRequest(design, text, given, reference=_reference(path, document, design))


def _reference(path: Path, document: SourceDocument, design: Design) -> str:
    """The text of the file with published values; empty where there is none.

    Raises:
        RecipeError: one line: it is not there, does not fit, or has an arm that the sweep has not.
    """
    named = document.root.get("reference")
    if named is None:
        return ""
    places = (path.parent / named, shipped_folder("recipes/sweeps") / named)
    file = next((place for place in places if place.is_file()), places[0])
    try:
        found = read_published(file, [axis.name for axis in design.axes])
        arms = [arm.name for arm in design.arms]
        for arm, *_ in found.values:
            if arm not in arms:
                raise UsageError(f"{file}: the sweep has no arm {arm!r}.{did_you_mean(arm, arms)}")
    except UsageError as error:
        place = document.place(("reference",))
        raise RecipeError(as_lines([RecipeFault(place, "reference", str(error))])) from None
    return read_text(file)


def _narrow_axis(document: SourceDocument, word: Word) -> bool:
    """Give an axis of the file, known by its name or its key, the values of the word."""
    axes = document.root.get("axes")
    for name, axis in axes.items() if isinstance(axes, dict) else ():
        by_path = isinstance(axis, dict) and isinstance(axis.get("path"), str)
        if word.key not in (name, axis["path"] if by_path else name):
            continue
        if by_path:
            axes[name] = {"path": axis["path"], "values": list(word.values)}
        elif isinstance(axis, dict):
            axes[name] = _blocks(name, axis, word)
        else:
            axes[name] = list(word.values)
        document.values[("axes", name)] = document.keys[("axes", name)] = word.place
        return True
    return False


def _blocks(name: str, axis: dict[str, Any], word: Word) -> dict[str, Any]:
    chosen = [label(value) for value in word.values]
    for block in chosen:
        if block not in axis:
            raise UsageError(f"axis {name} has no {block!r}: it has {', '.join(axis)}")
    return {block: axis[block] for block in chosen}


def _add_axis(document: SourceDocument, word: Word) -> str:
    axes = document.root.get("axes") or {}
    document.root["axes"] = axes
    short = word.key.rpartition(".")[2]
    name = word.key if short in axes or short.isdigit() else short
    axes[name] = {"path": word.key, "values": list(word.values)}
    document.values[("axes", name)] = document.keys[("axes", name)] = word.place
    return name


def _of_recipe(
    path: Path,
    document: SourceDocument,
    words: Sequence[Word],
    baselines_of: Callable[[str], int | None] | None,
) -> SweepRequest:
    recipe = _first_recipe(document, words)
    tree: dict[str, Any] = {
        "name": recipe.name,
        "recipe": str(path.resolve()),
        "set": {},
        "axes": {},
    }
    sweep = SourceDocument(root=tree)
    for word in words:
        if len(word.values) > 1:
            _add_axis(sweep, word)
        else:
            tree["set"][word.key] = word.values[0]
            sweep.values[("set", word.key)] = word.place
    tree["arms"], notes = {base_name(recipe): {}}, list[str]()
    if baselines_of is not None:
        paths = {name: axis["path"] for name, axis in tree["axes"].items()}
        begun = _first_recipe(document, words, baselines_of(recipe.name))
        tree["arms"], notes = baseline_arms(begun, paths)
    return SweepRequest(read_design(sweep, Path), yaml_text(tree), (), tuple(notes))


def _first_recipe(
    document: SourceDocument, words: Sequence[Word], as_of: int | None = None
) -> Recipe:
    """The recipe with the first value of every word: to know its name and strategies."""
    whole = document.copy()
    for word in words:
        apply_change(
            whole, word.key, SourceDocument(root=copy.deepcopy(word.values[0])), word.place
        )
    return recipe_from_document(whole, as_of)
