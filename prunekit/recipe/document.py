"""A recipe as it was written: plain values, each with its place, and what is wrong with it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from prunekit.foundation.plain import KeyPath, at_path, has_path


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

    def copied(self) -> SourceDocument:
        """Another, to be changed; places are values, and shared."""
        root = copy.deepcopy(self.root)
        faults, unread = [*self.faults], {*self.unread}
        return SourceDocument(root, {**self.keys}, {**self.values}, faults, unread)

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
        return at_path(self.root, path)

    def has(self, path: KeyPath) -> bool:
        """Whether something, be it null, was written at `path`."""
        return has_path(self.root, path)


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
