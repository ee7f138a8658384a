"""`key.path=value` on top of a recipe, before it is checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prunekit.errors import RecipeError
from prunekit.foundation.plain import KeyPath, dotted, kind_of
from prunekit.recipe.document import RecipeFault, SourceDocument, SourcePosition
from prunekit.recipe.yaml_text import MAX_DEPTH, read_document

HOW = "write it as key.path=value, such as phases.0.length=2ep"
LAST_LINE = 2**31
LONGEST_SHOWN = 120
POSITION = re.compile(r"[0-9]{1,6}")


class _BadPathError(ValueError):
    """The path of an override leads nowhere."""


def apply_overrides(document: SourceDocument, overrides: Sequence[str]) -> None:
    """Change `document` in place; what is wrong with an override becomes one of its faults."""
    for number, text in enumerate(overrides):
        label = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
        _apply(document, text, SourcePosition((LAST_LINE, number), f"override {label!r}"))


def apply_change(
    document: SourceDocument, path: str, value: SourceDocument, place: SourcePosition
) -> None:
    """Set what the dotted `path` names; a path that leads nowhere becomes a fault at `place`."""
    keys = path.strip().split(".")
    try:
        if not all(keys) or len(keys) > MAX_DEPTH:
            raise _BadPathError(HOW)
        _set(document, keys, value, place)
    except _BadPathError as error:
        document.faults.append(RecipeFault(place, "", str(error)))


def _apply(document: SourceDocument, text: str, place: SourcePosition) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        document.faults.append(RecipeFault(place, "", HOW))
        return
    try:
        read = read_document(value, lambda line, column: place)
    except RecipeError as error:
        what = str(error).removeprefix(f"{place.label}: ")
        document.faults.append(RecipeFault(place, path.strip(), what))
        return
    apply_change(document, path, read, place)


def _set(
    document: SourceDocument, keys: list[str], value: SourceDocument, place: SourcePosition
) -> None:
    holder, path = _find_holder(document, keys, place)
    last = _step(holder, keys[-1], path)
    holder[last] = value.root
    path = (*path, last)
    for known in (document.keys, document.values):
        for old in [p for p in known if p[: len(path)] == path]:
            del known[old]
        known[path] = place
    document.unread = {p for p in document.unread if p[: len(path)] != path}
    document.unread |= {(*path, *inner) for inner in value.unread}
    for fault in value.faults:
        below = [part for part in (dotted(path), fault.path) if part]
        document.faults.append(RecipeFault(place, ".".join(below), fault.what))


def _find_holder(
    document: SourceDocument, keys: list[str], place: SourcePosition
) -> tuple[Any, KeyPath]:
    """The mapping or list that holds the last key; missing mappings on the way are made."""
    node: Any = document.root
    path: KeyPath = ()
    for i, key in enumerate(keys[:-1]):
        path = (*path, _step(node, key, path))
        if isinstance(node, dict) and node.get(key) is None:
            _refuse_positions(keys, i + 1)
            node[key] = {}
            document.keys[path] = document.values[path] = place
        node = node[path[-1]]
        if not isinstance(node, dict | list):
            raise _BadPathError(_through_scalar(path, node, keys[i + 1]))
    return node, path


def _refuse_positions(keys: list[str], begin: int) -> None:
    """A list that is not there has no item to change."""
    for i in range(begin, len(keys)):
        if POSITION.fullmatch(keys[i]):
            where = ".".join(keys[:i])
            raise _BadPathError(f"{where} has no items: write {where}=[...]")


def _step(node: Any, key: str, path: KeyPath) -> str | int:
    if isinstance(node, dict):
        return key
    where = dotted(path)
    if not POSITION.fullmatch(key):
        raise _BadPathError(f"{where} is a list: write {where}.0 for its first item, not {key!r}")
    if int(key) >= len(node):
        have = (
            f"only {where}.0 to {where}.{len(node) - 1}"
            if node
            else f"no item: write {where}=[...]"
        )
        raise _BadPathError(f"there is no {where}.{key}: {where} has {have}")
    return int(key)


def _through_scalar(path: KeyPath, node: Any, following: str) -> str:
    where = dotted(path)
    remedy = f"leave off .{following}"
    if isinstance(node, str):
        remedy = f"if it is a name, write {where}={{name: {node}, {following}: ...}}"
    return f"{where} is {kind_of(node)}, not a mapping: {remedy}"
