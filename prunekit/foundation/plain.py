"""Plain values, as a recipe or a call gives them: found by their path, and shown to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of some values."""

LONGEST_SHOWN = 60


def at_path(root: Any, path: KeyPath) -> Any:
    """The value at `path`; None where there is none."""
    for key in path:
        if not _has(root, key):
            return None
        root = root[key]
    return root


def has_path(root: Any, path: KeyPath) -> bool:
    """Whether something, be it null, is at `path`."""
    return _has(at_path(root, path[:-1]), path[-1])


def _has(node: Any, key: str | int) -> bool:
    if isinstance(node, list | tuple):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and key in node


def dotted(path: Iterable[str | int]) -> str:
    """A path as an override writes it: `strategies.0.sparsity`."""
    return ".".join(shown(key, bare=True) for key in path)


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
        case int() | float():
            return f"the number {shown(value)}"
        case _:  # in a call from Python
            return f"a {type(value).__name__}"


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
