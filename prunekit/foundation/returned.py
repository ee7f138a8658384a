"""What code of others returned, held to the type that it promises. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex, TypeVar

from prunekit.errors import PluginError

T = TypeVar("T")


def returned(found: object, wanted: type[T], call: str, what: str) -> T:
    """What a call returned, if it is what is wanted.

    Args:
        found: what was returned.
        wanted: its type.
        call: the component and its hook, for the error.
        what: what is wanted, in words.

    Raises:
        PluginError: it is something else.
    """
    if isinstance(found, wanted):
        return found
    raise _other(found, call, what)


def each_returned(found: object, wanted: type[T], call: str, what: str) -> tuple[T, ...]:
    """All of what a call returned, if each is what is wanted; else as for `returned`."""
    if not isinstance(found, Iterable) or isinstance(found, str | bytes):
        raise _other(found, call, what)
    return tuple(returned(one, wanted, f"{call}: one of what it", what) for one in found)


def counts_returned(found: object, number: int, call: str) -> tuple[Any, ...]:
    """So many counts that a call returned; a tensor or a number of numpy is one too.

    Raises:
        PluginError: it returned something else.
    """
    what = "a count" if number == 1 else f"{number} counts"
    counts = found if isinstance(found, tuple | list) else (found,)
    if len(counts) != number or not all(isinstance(one, SupportsIndex | float) for one in counts):
        raise _other(found, call, what)
    return tuple(counts)


def _other(found: object, call: str, what: str) -> PluginError:
    return PluginError(f"{call} returned {_short(found)}, not {what}")


def _short(found: object) -> str:
    plain = found is None or isinstance(found, bool | int | float | str)
    return repr(found)[:60] if plain else type(found).__name__
