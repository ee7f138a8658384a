"""Which file of code a sweep was made with, told where its recipe cannot be read without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunekit.errors import CheckpointError, RecipeError
from prunekit.registry.own_code import current_code, require_code
from prunekit.sweep.directory import begun_with_code


@contextmanager
def naming_its_code(folder: Path) -> Iterator[None]:
    """Add to what is wrong with a recipe that the sweep in `folder` was made with a file of code.

    Only where none is in use: the names that are not known may be those of the file.

    Raises:
        RecipeError: what was raised inside, with a line more.
    """
    try:
        yield
    except RecipeError as error:
        if current_code() is not None:
            raise
        try:
            require_code(begun_with_code(folder), folder)
        except CheckpointError as wanted:
            raise RecipeError(f"{error}\n{wanted}") from error
        raise
