"""How many bytes a file of weights takes: as it is, with its zeros left out, and zipped."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prunekit.foundation.files import open_regular
from prunekit.runs.tensors import packed_bytes, read_tensors

CHUNK = 1 << 20
LEVEL = 6
"""Of deflate: what zip and gzip take where nothing is said."""


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Bytes of one model file in three forms."""

    plain: int
    packed: int
    """As `prunekit export --packed` writes it."""
    zipped: int | None
    """The plain file through deflate; None where that would take too long."""


def file_sizes(path: Path, seconds: float) -> FileSizes:
    """Measure a safetensors file that `write_tensors` wrote; nothing is written.

    Args:
        path: the file, plain or packed.
        seconds: after so many zipping is given up.

    Raises:
        CheckpointError: missing or corrupt.
    """
    packed = packed_bytes(*read_tensors(path))
    return FileSizes(path.stat().st_size, packed, zipped_bytes(path, seconds))


def zipped_bytes(path: Path, seconds: float) -> int | None:
    """Bytes of a file through deflate at level 6; None where that takes longer."""
    deadline = time.perf_counter() + seconds
    deflate, size = zlib.compressobj(LEVEL), 0
    for chunk in _chunks(path):
        size += len(deflate.compress(chunk))
        if time.perf_counter() > deadline:
            return None
    return size + len(deflate.flush())


def _chunks(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk
