"""A recipe as it was written: plain values, each with its place, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prunekit.reading.scalars import shown

Path = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written."""

    rank: tuple[int, int]
    """Sorts places as a person reads them."""
    label: str
    """`file:line:column`, or the override."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong with a recipe."""

    place: Place
    path: str
    what: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.place.label, self.path) if part)
        return f"{where}: {self.what}" if where else self.what


@dataclass(slots=True)
class Document:
    """Values and where they were written."""

    root: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    """Where a key begins."""
    values: dict[Path, Place] = field(default_factory=dict)
    """Where a value begins."""
    faults: list[Fault] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)
    """Where an alias or a tag stood: the value there means nothing."""

    def place(self, path: Path, *, of_key: bool = False) -> Place:
        """The place of a value or its key; of the nearest parent where it was not written."""
        if of_key and path in self.keys:
            return self.keys[path]
        for end in range(len(path), -1, -1):
            known = self.values if end == len(path) else self.keys
            if found := known.get(path[:end]) or self.values.get(path[:end]):
                return found
        return Place((0, 0), "")

    def at(self, path: Path) -> Any:
        """The value at `path`; None where there is none."""
        node = self.root
        for key in path:
            if not _has(node, key):
                return None
            node = node[key]
        return node

    def has(self, path: Path) -> bool:
        """Whether something, be it null, was written at `path`."""
        return _has(self.at(path[:-1]), path[-1])


def _has(node: Any, key: str | int) -> bool:
    if isinstance(node, list | tuple):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and key in node


def dotted(path: Iterable[str | int]) -> str:
    """A path as an override writes it: `strategies.0.sparsity`."""
    return ".".join(shown(key, bare=True) for key in path)
