"""A file as text and as a document, and its faults as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunekit.errors import RecipeError
from prunekit.reading.document import Document, Fault, Place
from prunekit.reading.yaml import MAX_BYTES, line_and_column, read_document

MAX_LINES = 100
"""Errors that a person is shown at once."""


def read_text(path: Path) -> str:
    """The text of a recipe or sweep file.

    Raises:
        RecipeError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path}: {reason}: give the path of a recipe file") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}:1:1: larger than {MAX_BYTES:,} bytes: no recipe is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = line_and_column(data[: error.start].decode("latin-1"))
        raise RecipeError(f"{path}:{line}:{column}: not UTF-8: save the file as UTF-8") from None


def read_text_document(text: str, source: str) -> Document:
    """YAML text as a document; `source` stands for the file in its places.

    Raises:
        RecipeError: it is no YAML, or is larger than a recipe can be.
    """

    def place(line: int, column: int) -> Place:
        return Place((line, column), f"{source}:{line}:{column}")

    return read_document(text, place)


def as_lines(faults: Sequence[Fault]) -> str:
    """The faults in the order of their places, one a line."""
    lines = [str(fault) for fault in sorted(faults)]
    rest = len(lines) - MAX_LINES
    return "\n".join(lines[:MAX_LINES] + ([f"... and {rest} more"] if rest > 0 else []))
