"""Errors that come up after reading: which key of the recipe they are about, and where it stands.

The message of such a `RecipeError` begins with the key, as `model.patch_size: ...`. So its place is
found wherever the error was raised, in another process too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunekit.errors import RecipeError
from prunekit.foundation.values import KEY
from prunekit.reading.document import Document, Fault, Path, Place


@contextmanager
def with_source_position(document: Document) -> Iterator[None]:
    """Begin a RecipeError about a key of `document` with its `file:line:column`, or its override.

    Any other error stays as it is.
    """
    try:
        yield
    except RecipeError as error:
        if (fault := _fault(str(error), document)) is None:
            raise
        raise RecipeError(str(fault)) from error


def _fault(message: str, document: Document) -> Fault | None:
    found = KEY.match(message)
    if found is None:
        return None
    path = _path(found[1], document)
    place = document.place(path)
    if not document.has(path[:1]) or place == Place((0, 0), ""):
        return None
    return Fault(place, found[1], message[found.end() :])


def _path(key: str, document: Document) -> Path:
    """Numbers are positions where the document has a list."""
    path: Path = ()
    for part in key.split("."):
        position = part.isdecimal() and isinstance(document.at(path), list | tuple)
        path = (*path, int(part) if position else part)
    return path
