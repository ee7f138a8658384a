"""A small document in the cache, for what takes long to find. It can be deleted at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from prunekit.errors import WriteError
from prunekit.foundation.cache_files import cache_folder, note_use
from prunekit.foundation.files import text_of, write_json

T = TypeVar("T")


def kept(name: str, make: Callable[[], T], told: Callable[[T], Any], read: Callable[[Any], T]) -> T:
    """What is kept under a name, else what is made now. Other processes wait meanwhile.

    Args:
        name: of the file; changes with whatever `make` depends on.
        make: what it raises passes through.
        told: as JSON.
        read: of that; raises a ValueError, KeyError or TypeError where it is damaged.
    """
    try:
        path = cache_folder() / name
    except RuntimeError:  # no home
        return make()
    if (found := _read(path, read)) is not None:
        return found
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # then each process makes it
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))
        found = _read(path, read)
        if found is None:
            found = make()
            with suppress(WriteError, OSError):
                write_json(path, told(found))
    return found


def _read(path: Path, read: Callable[[Any], T]) -> T | None:
    """None where the file is missing or damaged."""
    try:
        found = read(json.loads(text_of(path)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    note_use(path)
    return found
