"""The values of an axis: ranges, labels, and what a word of the command line says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prunekit.errors import RecipeError, UsageError
from prunekit.recipe.document import SourcePosition
from prunekit.recipe.overrides import LAST_LINE
from prunekit.recipe.yaml_text import read_document

RANGE = re.compile(r"(-?[0-9]{1,9})\.\.(-?[0-9]{1,9})")
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
