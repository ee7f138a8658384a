"""A YAML document as plain values, each with its place, and what is wrong with it as a document.

The parser's events are taken one by one, so a document can neither run code nor make more than it
says: no aliases, no tags, and limits on size, depth and nodes that end the reading at once.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from prunekit.errors import RecipeError
from prunekit.foundation.plain import KeyPath, dotted, kind_of
from prunekit.foundation.text import printable
from prunekit.recipe.document import RecipeFault, SourceDocument, SourcePosition, scalar

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 10_000
LONG_TAG = re.compile(r"!\S{1000}")
"""The parser's time grows with the square of a tag's length."""


def line_and_column(before: str) -> tuple[int, int]:
    """Line and column, from 1, of what comes after `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def read_document(text: str, place: Callable[[int, int], SourcePosition]) -> SourceDocument:
    """Read a YAML document.

    Args:
        text: one document.
        place: the place of a line and column, both from 1.

    Raises:
        RecipeError: it is no YAML, or is larger than a recipe can be. Lesser faults are in the
            document that is returned.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise RecipeError(f"{place(1, 1).label}: larger than {MAX_BYTES:,} bytes")
    if "\0" in text:
        raise RecipeError(f"{place(1, 1).label}: holds a NUL byte: this is no text file")
    if found := LONG_TAG.search(text):
        where = place(*line_and_column(text[: found.start()]))
        raise RecipeError(f"{where.label}: a tag: leave it out")
    reader = _Reader(place)
    try:
        for event in YAML(typ="safe", pure=True, plug_ins=[]).parse(text):
            reader.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place(mark.line + 1, mark.column + 1) if mark else place(1, 1)
        problem = printable(" ".join(str(error.problem or error.context).split()))
        raise RecipeError(f"{where.label}: no valid YAML: {problem}") from None
    except YAMLError as error:
        index = getattr(error, "position", 0)
        where = place(*line_and_column(text[:index]))
        raise RecipeError(
            f"{where.label}: no valid YAML: a character that is not allowed"
        ) from None
    reader.document.values.setdefault((), place(1, 1))  # an empty document has no event
    return reader.document


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not been read."""

    container: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None
    key_read: bool = False


class _Reader:
    def __init__(self, place: Callable[[int, int], SourcePosition]) -> None:
        self.place_of = place
        self.document = SourceDocument()
        self.open: list[_Open] = []
        self.nodes = self.documents = 0

    def take(self, event: Event) -> None:
        """The next event of the parser.

        Raises:
            RecipeError: a second document, or more than a recipe may hold.
        """
        if isinstance(event, DocumentStartEvent):
            self.start_document(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self.open.pop()
        elif isinstance(event, NodeEvent):
            self.count(event)
            self.take_node(event)

    def start_document(self, event: DocumentStartEvent) -> None:
        """See `take`; directives are noted as faults."""
        self.documents += 1
        if self.documents > 1:
            raise RecipeError(f"{self.where(event).label}: a second document: a file is one recipe")
        if event.version or event.tags:
            self.fault(event, (), "% directives are not allowed: leave them out")

    def count(self, event: Event) -> None:
        """See `take`: values in all, and levels."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RecipeError(f"{self.where(event).label}: more than {MAX_NODES:,} values")
        if len(self.open) >= MAX_DEPTH:
            raise RecipeError(f"{self.where(event).label}: nested more than {MAX_DEPTH} deep")

    def take_node(self, event: NodeEvent) -> None:
        """A key, or a value that goes into what is open."""
        parent = self.open[-1] if self.open else None
        if parent and isinstance(parent.container, dict) and not parent.key_read:
            self.take_key(parent, event)
            return
        path = self.path_of_next(parent)
        self.refuse_references(event, path)
        self.document.values.setdefault(path, self.where(event))
        value = self.value_of(event, path)
        if parent is None:
            self.document.root = value
        elif isinstance(parent.container, list):
            parent.container.append(value)
        elif parent.key is not None:
            parent.container[parent.key] = value
        if parent:
            parent.key, parent.key_read = None, False

    def path_of_next(self, parent: _Open | None) -> KeyPath:
        """Where the value that comes stands; -1 = below a key that could not be read."""
        if parent is None:
            return ()
        if isinstance(parent.container, list):
            return (*parent.path, len(parent.container))
        return (*parent.path, -1 if parent.key is None else parent.key)

    def value_of(self, event: NodeEvent, path: KeyPath) -> Any:
        """The value, or the open container that its own come into; None where it is not read."""
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            container: dict[str, Any] | list[Any] = (
                {} if isinstance(event, MappingStartEvent) else []
            )
            self.open.append(_Open(container, path))
            return container
        if not isinstance(event, ScalarEvent) or path in self.document.unread:
            return None
        return self.scalar(event, path)

    def take_key(self, parent: _Open, event: NodeEvent) -> None:
        """Read a key; `parent.key` stays None where the value must be read and dropped."""
        parent.key_read = True
        path = (*parent.path, -1)
        self.refuse_references(event, parent.path)
        key = self.value_of(event, path)
        if not isinstance(key, str):
            self.fault(event, parent.path, f"a key must be text, not {kind_of(key)}")
        elif key in parent.container:
            first = self.document.keys[*parent.path, key].label
            self.fault(event, (*parent.path, key), f"given twice, first at {first}")
        else:
            parent.key = key
            self.document.keys[*parent.path, key] = self.where(event)

    def scalar(self, event: ScalarEvent, path: KeyPath) -> Any:
        """What is written, by the rules of YAML 1.2; what cannot be read is noted as a fault."""
        plain = event.implicit[0]
        try:
            value = scalar(event.value) if plain else event.value
        except ValueError as error:
            self.fault(event, path, str(error))
            self.document.unread.add(path)
            return None
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            self.fault(event, path, "holds half a character (a lone surrogate)")
            return value.encode(errors="replace").decode()
        return value

    def refuse_references(self, event: NodeEvent, path: KeyPath) -> None:
        """Note aliases, anchors and tags as faults."""
        if isinstance(event, AliasEvent):
            self.fault(event, path, f"alias *{event.anchor}: write the value out")
            self.document.unread.add(path)
        elif event.anchor is not None:
            self.fault(event, path, f"anchor &{event.anchor}: leave it out")
        if (tag := getattr(event, "ctag", None)) is not None:
            self.fault(event, path, f"tag {tag}: leave it out")
            self.document.unread.add(path)

    def where(self, event: Event) -> SourcePosition:
        """Line and column, from 1."""
        mark = event.start_mark
        return self.place_of(mark.line + 1, mark.column + 1)

    def fault(self, event: Event, path: KeyPath, what: str) -> None:
        """Note what is wrong; the names of anchors and tags are whatever the file has."""
        found = RecipeFault(self.where(event), dotted(path), printable(what))
        self.document.faults.append(found)


def dump_yaml(recipe: BaseModel) -> str:
    """The recipe with every default written out; `recipe_from_text` reads the same value back."""
    return _written(json.dumps(recipe.model_dump(mode="json")))


@lru_cache(maxsize=4)
def _written(tree: str) -> str:
    """Kept, as a run asks for its recipe in three places."""
    return yaml_text(json.loads(tree))


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Plain values as YAML in the order of their keys."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = False  # it would write U+0085 in a way that it reads as a space
    yaml.width = 100
    yaml.representer.ignore_aliases = lambda data: True  # they are refused at reading
    text = io.StringIO()
    yaml.dump(tree, text)
    return text.getvalue()
