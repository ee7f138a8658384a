"""Files that are either whole or not there. Torch-free."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunekit.errors import CheckpointError, WriteError
from prunekit.foundation.unfinished import part_for

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Reasons of the system that space would mend."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and takes the name of `path`.

    Raises:
        WriteError: the disk is full or the folder cannot be written; `path` is as it was.
        StopRequestedError: a signal asked for a stop, and nothing around this counts them.
    """
    with part_for(path) as temporary:
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # libraries make files that only their owner reads
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error


def _umask() -> int:
    """The process's mask of modes, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk.

    Windows opens no folder, and keeps what is in one by itself.
    """
    try:
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> WriteError:
    """The error for a path that could not be written; where its disk is full, with what is free."""
    reason = error.strerror or str(error)
    if error.errno not in FULL:
        return WriteError(
            f"{path}: cannot be written: {reason}: choose a folder that you may write"
        )
    return WriteError(
        f"{path}: cannot be written: {reason} ({free_space(path)}): free some space or choose "
        "another folder"
    )


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reading that has content of its own: everything from outside goes this way.

    A pipe or a device would be waited for without an end, or read without one.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    return open(path, "rb", opener=only_regular)


def only_regular(path: str, flags: int) -> int:
    """The opener of `open_regular`, for `open(..., opener=)` itself."""
    _refuse_special(path, os.stat(path).st_mode)  # before it is opened: to open may do something
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _refuse_special(path, os.fstat(handle).st_mode)
    except OSError:
        os.close(handle)
        raise
    return handle


def _refuse_special(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def read_bytes(path: str | Path) -> bytes:
    """All that is in a file; errors as of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def text_of(path: str | Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """All the text of a file, with `\n` between lines; errors as of `open_regular`.

    Raises:
        UnicodeDecodeError: it is not of that encoding.
    """
    with io.TextIOWrapper(open_regular(path), encoding, errors) as file:
        return file.read()


def free_space(path: Path) -> str:
    """What is free on the disk where `path` is, or would be."""
    with suppress(OSError, StopIteration):
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free"
    return "free space unknown"


def require_regular(path: Path) -> None:
    """Refuse what is no file with content of its own, before opening it could wait for ever.

    Raises:
        CheckpointError: nothing is there, or a folder, a pipe or a device is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: not a regular file: give a file or a run directory")


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digests: Mapping[str, str]) -> None:
    """Compare a file with the SHA-256 that is noted under its name.

    Raises:
        CheckpointError: it has another, or none is noted.
        OSError: it cannot be read.
    """
    if sha256(path) != digests.get(path.name):
        raise CheckpointError(f"{path}: corrupt: it does not have its SHA-256")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 in one piece, with the same bytes on each system.

    Raises:
        WriteError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document in one piece.

    Raises:
        WriteError: the disk is full or the folder cannot be written; `path` is as it was.
        ValueError: `value` holds NaN or infinity, which JSON does not have.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A JSON document as it is written.

    Raises:
        ValueError: `value` holds NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        CheckpointError: missing, unreadable or not JSON.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path}: corrupt: larger than {LARGEST // 10**6} MB")
        value = json.loads(text_of(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing: the run did not get that far") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt: not a JSON document ({error})") from error
    if not is_sane(value):
        raise CheckpointError(
            f"{path}: corrupt: nested deeper than {DEEPEST}, or with a number beyond 1e30"
        )
    return value


LARGEST, DEEPEST, MOST = 2**28, 64, 1e30
"""Bytes of a JSON document, levels in it, and a number in it: no run writes more of any."""


def is_sane(value: Any) -> bool:
    """Whether all of a JSON value can be computed with, drawn and walked through."""
    level = [value]
    for _ in range(DEEPEST):
        if any(isinstance(x, int | float) and math.isfinite(x) and abs(x) > MOST for x in level):
            return False
        level = [inner for x in level if isinstance(x, dict | list) for inner in _within(x)]
        if not level:
            return True
    return False


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
