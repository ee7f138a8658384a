"""A sweep as it is meant: axes of changes, arms with their recipes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prunekit.errors import PrunekitError, RecipeError
from prunekit.foundation.plain import KeyPath, dotted
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.values import as_values
from prunekit.recipe.document import RecipeFault, SourceDocument, SourcePosition
from prunekit.recipe.explain import faults_in
from prunekit.recipe.load import as_lines, read_text, read_text_document
from prunekit.sweep.file import ArmFile, SweepFile, expanded, label


@dataclass(frozen=True, slots=True)
class Change:
    """A recipe key that is set."""

    path: str
    value: Any
    place: SourcePosition


@dataclass(frozen=True, slots=True)
class AxisValue:
    """A point of an axis: its label and what it sets."""

    label: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """What is varied."""

    name: str
    values: tuple[AxisValue, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """What is compared."""

    name: str
    recipe: SourceDocument
    """As it was written; not to be changed."""
    changes: tuple[Change, ...]
    """First those of the sweep, then its own."""
    without: frozenset[str]
    collapse: frozenset[str]
    needs: Mapping[str, str]
    """Recipe key -> arm."""
    place: SourcePosition


@dataclass(frozen=True, slots=True)
class Design:
    """A whole sweep, before it is multiplied out."""

    name: str
    axes: tuple[Axis, ...]
    arms: tuple[Arm, ...]
    last: tuple[Change, ...] = ()
    """What the command line sets in every run, whatever arms and axes say."""


FindRecipe = Callable[[str], Path]
"""The file that a `recipe` means; raises PrunekitError."""


def read_design(document: SourceDocument, find: FindRecipe, last: Sequence[Change] = ()) -> Design:
    """Check a sweep file and the recipes that it names.

    Args:
        document: the sweep as it was written.
        find: the file of a recipe.
        last: changes to every run.

    Raises:
        RecipeError: everything that is wrong with the file itself, each with its place.
    """
    file = _validated(document)
    reader = _Reader(document, find)
    axes = tuple(reader.axis(name) for name in file.axes)
    arms = file.arms or {_stem(file.recipe): None}
    made = tuple(reader.arm(name, arm or ArmFile(), file) for name, arm in arms.items())
    reader.check_references(axes, made)
    if reader.faults:
        raise RecipeError(as_lines(reader.faults))
    return Design(file.name, axes, made, tuple(last))


def _validated(document: SourceDocument) -> SweepFile:
    try:
        file = SweepFile.model_validate(as_values(document.root))
    except ValidationError as error:
        faults = [*document.faults, *faults_in(error, document, SweepFile)]
        raise RecipeError(as_lines(faults)) from None
    if document.faults:
        raise RecipeError(as_lines(document.faults))
    return file


def _stem(recipe: str) -> str:
    return Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")


class _Reader:
    """Takes values from the document, as lists stay lists there and each has its place."""

    def __init__(self, document: SourceDocument, find: FindRecipe) -> None:
        self.document, self.find = document, find
        self.faults: list[RecipeFault] = []
        self.recipes: dict[str, SourceDocument] = {}

    def fault(self, path: KeyPath, what: str) -> None:
        """Note what is wrong at a place."""
        self.faults.append(RecipeFault(self.document.place(path), dotted(path), what))

    def changes(self, path: KeyPath) -> tuple[Change, ...]:
        """A mapping of dotted keys."""
        return tuple(
            Change(key, value, self.document.place((*path, key)))
            for key, value in (self.document.at(path) or {}).items()
        )

    def axis(self, name: str) -> Axis:
        """An axis of values, of values under another path, or of named blocks of changes."""
        written = self.document.at(("axes", name))
        if isinstance(written, dict) and not ("values" in written and "path" in written):
            path: KeyPath = ("axes", name)
            made = [AxisValue(block, self.changes((*path, block))) for block in written]
        elif isinstance(written, dict):
            path = ("axes", name, "values")
            made = self.axis_values(path, written["path"], written["values"])
        else:
            path = ("axes", name)
            made = self.axis_values(path, name, written)
        labels = [value.label for value in made]
        if not made and not self.faults:
            self.fault(path, "no values: give at least one")
        seen = set[str]()
        for text in labels:
            if text in seen:
                self.fault(path, f"{text} is given twice")
            seen.add(text)
        return Axis(name, tuple(made))

    def axis_values(self, path: KeyPath, key: str, written: Any) -> list[AxisValue]:
        """A point for each value that is written, ranges written out."""
        if isinstance(written, str):
            written, places = [written], [self.document.place(path)]
        else:
            places = [self.document.place((*path, i)) for i in range(len(written))]
        found = []
        for value, place in zip(written, places, strict=True):
            try:
                values = expanded([value])
            except ValueError as error:
                self.faults.append(RecipeFault(place, dotted(path), str(error)))
                continue
            found += [AxisValue(label(each), (Change(key, each, place),)) for each in values]
        return found

    def arm(self, name: str, arm: ArmFile, file: SweepFile) -> Arm:
        """An arm with its recipe, or else that of the sweep."""
        own = ("arms", name, "recipe") if arm.recipe else ("recipe",)
        return Arm(
            name,
            self.recipe(arm.recipe or file.recipe, own),
            (*self.changes(("set",)), *self.arm_changes(name)),
            frozenset(arm.without),
            frozenset(arm.collapse),
            arm.needs,
            self.document.place(("arms", name)),
        )

    def arm_changes(self, name: str) -> tuple[Change, ...]:
        """What an arm itself sets."""
        written = self.document.at(("arms", name))
        return self.changes(("arms", name, "set")) if isinstance(written, dict) else ()

    def recipe(self, text: str, path: KeyPath) -> SourceDocument:
        """The recipe of an arm, read once."""
        try:
            file = self.find(text)
            source = str(file)
            if source not in self.recipes:
                self.recipes[source] = read_text_document(read_text(file), source)
                if not isinstance(self.recipes[source].root, dict):
                    raise RecipeError(f"{source}:1:1: not a recipe: no mapping of keys to values")
            return self.recipes[source]
        except PrunekitError as error:
            self.fault(path, str(error))
            return SourceDocument(root={})

    def check_references(self, axes: Sequence[Axis], arms: Sequence[Arm]) -> None:
        """Axes and arms that are named exist."""
        known, names = [axis.name for axis in axes], [arm.name for arm in arms]
        for arm in arms:
            for kind, named in (("without", arm.without), ("collapse", arm.collapse)):
                for axis in sorted(named - set(known)):
                    near = did_you_mean(axis, known) or f" Axes: {', '.join(known) or 'none'}"
                    self.fault(("arms", arm.name, kind), f"no axis is called {axis!r}.{near}")
            for axis in sorted(arm.without & arm.collapse):
                what = f"{axis!r} cannot be in both without and collapse"
                self.fault(("arms", arm.name, "collapse"), what)
            for key, other in arm.needs.items():
                if other not in names:
                    near = did_you_mean(other, names) or f" Arms: {', '.join(names)}"
                    self.fault(("arms", arm.name, "needs", key), f"no arm {other!r}.{near}")
