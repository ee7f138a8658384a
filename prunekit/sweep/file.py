"""A sweep file as it is written: its keys, and what each may hold. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from prunekit.errors import RecipeError, UsageError
from prunekit.foundation.plain import kind_of
from prunekit.foundation.values import Frozen
from prunekit.recipe.document import SourcePosition
from prunekit.recipe.overrides import LAST_LINE
from prunekit.recipe.schema import Name
from prunekit.recipe.yaml_text import read_document


def _several(values: Any) -> Any:
    if isinstance(values, tuple | list):
        return values
    if isinstance(values, str) and RANGE.fullmatch(values):
        return (values,)
    raise ValueError(f"must be a list or a range such as 0..4, not {kind_of(values)}")


Values = Annotated[
    tuple[Any, ...], BeforeValidator(_several, json_schema_input_type=tuple[Any, ...] | str)
]
"""A list, or a range of whole numbers, `0..4`, both ends included."""
Changes = dict[str, Any]
"""Dotted recipe key -> its value, such as `phases.0.length: 2ep`."""


class PathAxis(Frozen):
    """An axis of one recipe key."""

    path: str
    """The recipe key, dotted, such as `strategies.0.sparsity`."""
    values: Values
    """A list, or a range such as `0..4`."""


def _form(value: Any) -> str:
    if not isinstance(value, dict):
        return "(values)"
    by_path = "values" in value or isinstance(value.get("path"), str)
    return "(path)" if by_path else "(blocks)"


AnyAxis = Annotated[
    Annotated[Values, Tag("(values)")]
    | Annotated[PathAxis, Tag("(path)")]
    | Annotated[dict[str, Changes], Tag("(blocks)")],
    Discriminator(_form),
]
"""Values of the key that the axis is called after; a key and values; or named blocks of keys."""


class ArmFile(Frozen):
    """A row of the comparison."""

    recipe: str | None = None
    """Its own recipe; null = that of the sweep."""
    set: Changes = Field(default_factory=dict)
    """Changes to it."""
    without: tuple[str, ...] = ()
    """Axes whose keys it does not have. It still has a run for each value that a needed run has."""
    collapse: tuple[str, ...] = ()
    """Axes of which one run serves all values; their keys are not set."""
    needs: dict[str, str] = Field(default_factory=dict)
    """Recipe key -> the arm whose run of the same cell it takes."""


def _recipe_only(value: Any) -> Any:
    return {"recipe": value} if isinstance(value, str) else value


AnyArm = Annotated[
    ArmFile | None, BeforeValidator(_recipe_only, json_schema_input_type=ArmFile | str | None)
]
"""An arm; one that is a recipe and no more may be written as its path or name."""


class SweepFile(Frozen):
    """A sweep: arms x axes."""

    name: Name
    """What the sweep is called; names its folder."""
    recipe: str
    """The recipe that is changed: a path from this file's folder, or the name of an installed
    one."""
    set: Changes = Field(default_factory=dict)
    """Changes to every arm's recipe, before its own."""
    axes: dict[Name, AnyAxis] = Field(default_factory=dict)
    """What is varied."""
    arms: dict[Name, AnyArm] = Field(default_factory=dict)
    """What is compared; none = the recipe alone."""
    reference: str | None = None
    """A CSV file, from this file's folder, of accuracies that others published for the arms."""


RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})")
MAX_VALUES = 10_000


def expanded(values: Iterable[Any]) -> list[Any]:
    """The values, each `a..b` in them as the whole numbers from a to b.

    Raises:
        ValueError: b lies before a, or there are more than 10,000.
    """
    found: list[Any] = []
    for value in values:
        match = RANGE.fullmatch(value) if isinstance(value, str) else None
        found += _range(*match.groups()) if match else [value]
    if len(found) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    return found


def _range(first: str, last: str) -> range:
    if int(last) < int(first):
        raise ValueError(f"{first}..{last} runs backwards: write {last}..{first}")
    if int(last) - int(first) >= MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    return range(int(first), int(last) + 1)


def label(value: Any) -> str:
    """A value as a recipe would write it, in one line."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Word:
    """`key=value,...` of the command line."""

    key: str
    values: tuple[Any, ...]
    place: SourcePosition


def read_word(text: str, number: int = 0) -> Word:
    """Read one word: values are YAML, parted by commas; `0..4` is a range.

    A value with a comma stands in quotes, brackets or braces: `data.augment=[flip],[flip,crop]`.

    Raises:
        UsageError: no `key=value`, or no YAML.
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(f"{text!r} is no override: write key=value, such as seed=0..4")
    place = SourcePosition((LAST_LINE, number), f"override {text!r}")
    try:
        document = read_document(f"[{values}]", lambda line, column: place)
        found = expanded(document.root) if isinstance(document.root, list) else []
    except (RecipeError, ValueError) as error:
        what = str(error).removeprefix(f"{place.label}: ")
        raise UsageError(f"{text}: {what}") from None
    if document.faults:
        raise UsageError(f"{text}: {document.faults[0].what}")
    if not found:
        raise UsageError(f"{text}: no value: write key=value, such as seed=0..4")
    return Word(key, tuple(found), place)
