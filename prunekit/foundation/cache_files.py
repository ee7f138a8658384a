"""The folder of what can be made again: how much there is, and what goes first. Torch-free.

A file is used when it is read, which sets its time; where there is too much, those that were used
least recently go. Who has one open or mapped goes on with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import UsageError, WriteError
from prunekit.foundation.files import cannot_write

LIMIT_GB = 50.0
KINDS = {
    ".index.safetensors": "list of a large folder",
    ".safetensors": "decoded images",
    ".content.json": "digest of a folder",
    ".json": "statistics of pixels",
    ".lock": "lock",
}
"""Ending of a file of ours -> what is in it; the first that fits counts, and no other file is."""
UNFINISHED = ".part"


@dataclass(frozen=True, slots=True)
class CacheFile:
    """One of ours."""

    path: Path
    kind: str
    size: int
    """Bytes."""
    used: float
    """Seconds of the epoch at which it was read or written last."""


def cache_folder() -> Path:
    """`$PRUNEKIT_CACHE`, or `prunekit` under `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        RuntimeError: there is no home.
    """
    if own := os.environ.get("PRUNEKIT_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "prunekit"


def cache_limit() -> int:
    """Bytes that the folder may hold: `$PRUNEKIT_CACHE_LIMIT` in GB of 10^9, or 50 GB.

    Raises:
        UsageError: it is no number, or less than 0.
    """
    text = os.environ.get("PRUNEKIT_CACHE_LIMIT", str(LIMIT_GB))
    with suppress(ValueError, OverflowError):
        limit = int(float(text) * 1e9)
        if limit >= 0:
            return limit
    raise UsageError(f"PRUNEKIT_CACHE_LIMIT is {text!r}: give a number of GB, as 20; 0 keeps none")


def cache_files(folder: Path) -> Sequence[CacheFile]:
    """What is in it, that was used last first; links and files of others are left out."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        found = list(_ours(folder))
    return sorted(found, key=lambda file: (-file.used, file.path.name))


def _ours(folder: Path) -> Iterator[CacheFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.removesuffix(UNFINISHED)
            kind = next((kind for end, kind in KINDS.items() if end in name), None)
            if kind is None or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                yield CacheFile(Path(entry.path), kind, stat.st_size, stat.st_mtime)


def note_use(path: Path) -> None:
    """Remember that a file was read now, where it may be written."""
    with suppress(OSError):
        os.utime(path)


def clear(files: Sequence[CacheFile]) -> int:
    """Delete some; bytes that are free then.

    Raises:
        WriteError: one cannot be deleted.
    """
    freed = 0
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(file.path, error) from error
        freed += file.size
    return freed


def make_room(folder: Path, size: int) -> bool:
    """Delete what was used least recently until so many bytes fit within the limit.

    Returns:
        whether they do.

    Raises:
        UsageError: the limit is no number.
    """
    limit, files = cache_limit(), cache_files(folder)
    if size > limit:
        return False
    left = sum(file.size for file in files)
    for file in reversed(files):
        if left + size <= limit:
            break
        with suppress(WriteError):
            left -= clear([file])
    return left + size <= limit
