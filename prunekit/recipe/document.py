"""A recipe as it was written: plain values, each with its place, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe."""


@dataclass(frozen=True, slots=True, order=True)
class SourcePosition:
    """Where something was written."""

    rank: tuple[int, int]
    """Sorts places as a person reads them."""
    label: str
    """`file:line:column`, or the override."""


@dataclass(frozen=True, slots=True, order=True)
class RecipeFault:
    """One thing that is wrong with a recipe."""

    place: SourcePosition
    path: str
    what: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.place.label, self.path) if part)
        return f"{where}: {self.what}" if where else self.what


@dataclass(slots=True)
class SourceDocument:
    """Values and where they were written."""

    root: Any = None
    keys: dict[KeyPath, SourcePosition] = field(default_factory=dict)
    """Where a key begins."""
    values: dict[KeyPath, SourcePosition] = field(default_factory=dict)
    """Where a value begins."""
    faults: list[RecipeFault] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)
    """Where an alias or a tag stood: the value there means nothing."""

    def place(self, path: KeyPath, *, of_key: bool = False) -> SourcePosition:
        """The place of a value or its key; of the nearest parent where it was not written."""
        if of_key and path in self.keys:
            return self.keys[path]
        for end in range(len(path), -1, -1):
            known = self.values if end == len(path) else self.keys
            if found := known.get(path[:end]) or self.values.get(path[:end]):
                return found
        return SourcePosition((0, 0), "")

    def at(self, path: KeyPath) -> Any:
        """The value at `path`; None where there is none."""
        node = self.root
        for key in path:
            if not _has(node, key):
                return None
            node = node[key]
        return node

    def has(self, path: KeyPath) -> bool:
        """Whether something, be it null, was written at `path`."""
        return _has(self.at(path[:-1]), path[-1])


def _has(node: Any, key: str | int) -> bool:
    if isinstance(node, list | tuple):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and key in node


def dotted(path: Iterable[str | int]) -> str:
    """A path as an override writes it: `strategies.0.sparsity`."""
    return ".".join(shown(key, bare=True) for key in path)


WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INTEGER = re.compile(r"[-+]?[0-9]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
OCTAL = re.compile(r"0o[0-7]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
MAX_DIGITS = 300

LONGEST_SHOWN = 60


def scalar(text: str) -> Any:
    """The value of an unquoted scalar: null, bool, int, float or text.

    `5e-3` is a number, `010` is 10, `no` and `2024-01-01` are text.

    Raises:
        ValueError: a number of more than 300 digits.
    """
    if text in WORDS:
        return WORDS[text]
    if len(text) > MAX_DIGITS and (INTEGER.fullmatch(text) or FLOAT.fullmatch(text)):
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    if INTEGER.fullmatch(text):
        return int(text)
    if HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "", 1)) if NOT_FINITE.fullmatch(text) else text


def kind_of(value: Any) -> str:
    """What a value is, to a person."""
    match value:
        case None:
            return "null"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {shown(value)}"
        case _:
            return f"the number {shown(value)}"


def shown(value: Any, *, bare: bool = False) -> str:
    """A scalar in at most a few words, without a character that a terminal would obey.

    Args:
        value: what to show.
        bare: leave the quotes off a text that needs none.
    """
    if bare and isinstance(value, str) and re.fullmatch(r"[\w*:/-]{1,60}", value):
        return value
    text = ascii(value) if not str(value).isprintable() else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def flow(value: Any) -> str:
    """Plain values as a recipe writes them on one line; texts that need quotes have none."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
