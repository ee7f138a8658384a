"""A file, a text or plain values to a checked `Recipe`, with the place of all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.files import open_regular
from prunekit.foundation.plain import KeyPath, dotted, kind_of
from prunekit.foundation.text import printable
from prunekit.foundation.values import KEY, Frozen, as_values
from prunekit.recipe.conflicts import conflicts
from prunekit.recipe.document import RecipeFault, SourceDocument, SourcePosition
from prunekit.recipe.explain import faults_in
from prunekit.recipe.find import find_recipe
from prunekit.recipe.overrides import apply_overrides
from prunekit.recipe.schema import AnyDataset, Recipe
from prunekit.recipe.yaml_text import MAX_BYTES, line_and_column, read_document
from prunekit.registry.configs import DatasetConfig
from prunekit.registry.own_code import CodeFile, use_code

Checked = TypeVar("Checked", bound=BaseModel)

MAX_LINES = 100
"""Errors that a person is shown at once."""


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    as_of: int | None = None,
    code: str | Path | CodeFile | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file; a str may also be the name of a recipe of prunekit or of a plugin.
        overrides: `key.path=value`, such as `strategies.0.sparsity=0.8`, applied in this order
            before anything is checked.
        as_of: an earlier format of recipes, whose defaults the keys have that it leaves out.
        code: a file of your own, whose classes the recipe may name.

    Raises:
        RecipeError: everything that is wrong, one a line: `file:line:column path: what`.
        PluginError: a component that it names cannot be imported.
        UsageError: a str is neither a file nor the name of a recipe; there is no such code.
    """
    file = find_recipe(path) if isinstance(path, str) else path
    with use_code(code):
        document = document_from_text(read_text(file), overrides, source=str(file))
        return recipe_from_document(document, as_of)


def read_written_out(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe that a run or a sweep wrote with every default it knew: `resolved.yaml`.

    A key that is missing came later, and means what runs did before there was the key.

    Raises:
        RecipeError, PluginError: see `load_recipe`.
    """
    return load_recipe(path, overrides, as_of=0)  # before all marks


def recipe_from_text(text: str, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
    """Read a recipe from YAML text; `source` stands for the file in errors. See `load_recipe`."""
    return recipe_from_document(document_from_text(text, overrides, source))


def document_from_text(
    text: str, overrides: Sequence[str] = (), source: str = "recipe"
) -> SourceDocument:
    """Read the YAML text of a recipe as a mapping with places, nothing in it checked yet.

    Raises:
        RecipeError: it is no YAML, or no mapping.
    """
    document = read_text_document(text, source)
    if not isinstance(document.root, dict):
        got = "empty" if document.root is None else kind_of(document.root)
        what = f"a recipe is a mapping of keys to values, this is {got}"
        raise RecipeError(as_lines([*document.faults, RecipeFault(document.place(()), "", what)]))
    apply_overrides(document, overrides)
    return document


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """Make a recipe of plain values, such as a parsed JSON document. See `load_recipe`."""
    return recipe_from_document(SourceDocument(root=dict(tree)))


def recipe_from_document(document: SourceDocument, as_of: int | None = None) -> Recipe:
    """Check a mapping as it was written, faults found before included. See `load_recipe`."""
    return _checked(document, Recipe, as_of)


def dataset_from(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> DatasetConfig:
    """The settings of a data set, of plain values and overrides such as `data.root=photos`.

    Args:
        tree: as below `data` in a recipe; a key that is missing means what it did at first.
        overrides: of keys below `data` alone.

    Raises:
        RecipeError, PluginError: see `load_recipe`.
    """
    document = SourceDocument(root={"data": dict(tree)})
    apply_overrides(document, overrides)
    return _checked(document, _DataAlone, 0).data


class _DataAlone(Frozen):
    data: AnyDataset


def _checked(document: SourceDocument, kind: type[Checked], as_of: int | None) -> Checked:
    try:
        found = kind.model_validate(as_values(document.root), context={"as_of": as_of})
    except ValidationError as error:
        faults = [*document.faults, *faults_in(error, document, kind)]
        problems = error.errors()
        if kind is Recipe and not any(problem["type"] == "conflict" for problem in problems):
            faults += [
                RecipeFault(document.place(path), dotted(path), what)
                for path, what in conflicts(document.root)
            ]
        for problem in problems:
            if problem["type"] == "plugin":
                raise PluginError(as_lines(faults)) from problem["ctx"]["cause"]
        raise RecipeError(as_lines(faults)) from None
    if document.faults:
        raise RecipeError(as_lines(document.faults))
    return found


def read_text(path: Path) -> str:
    """The text of a recipe or sweep file.

    Raises:
        RecipeError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path}: {reason}: give the path of a recipe file") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}:1:1: larger than {MAX_BYTES:,} bytes: no recipe is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = line_and_column(data[: error.start].decode("latin-1"))
        raise RecipeError(f"{path}:{line}:{column}: not UTF-8: save the file as UTF-8") from None


def read_text_document(text: str, source: str) -> SourceDocument:
    """YAML text as a document; `source` stands for the file in its places.

    Raises:
        RecipeError: it is no YAML, or is larger than a recipe can be.
    """

    def place(line: int, column: int) -> SourcePosition:
        return SourcePosition((line, column), f"{source}:{line}:{column}")

    return read_document(text, place)


def as_lines(faults: Sequence[RecipeFault]) -> str:
    """The faults in the order of their places, one a line."""
    lines = [printable(str(fault)) for fault in sorted(faults)]
    rest = len(lines) - MAX_LINES
    return "\n".join(lines[:MAX_LINES] + ([f"... and {rest} more"] if rest > 0 else []))


@contextmanager
def with_source_position(document: SourceDocument) -> Iterator[None]:
    """Begin a RecipeError about a key of `document` with its `file:line:column`, or its override.

    Any other error stays as it is.
    """
    try:
        yield
    except RecipeError as error:
        if (fault := _fault(str(error), document)) is None:
            raise
        raise RecipeError(str(fault)) from error


def _fault(message: str, document: SourceDocument) -> RecipeFault | None:
    found = KEY.match(message)
    if found is None:
        return None
    path = _path(found[1], document)
    place = document.place(path)
    if not document.has(path[:1]) or place == SourcePosition((0, 0), ""):
        return None
    return RecipeFault(place, found[1], message[found.end() :])


def _path(key: str, document: SourceDocument) -> KeyPath:
    """Numbers are positions where the document has a list."""
    path: KeyPath = ()
    for part in key.split("."):
        position = part.isdecimal() and isinstance(document.at(path), list | tuple)
        path = (*path, int(part) if position else part)
    return path
