"""A folder that one process holds, and who does. Torch-free."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunekit.errors import CheckpointError, ResourceError
from prunekit.foundation.files import cannot_write, read_json, write_json
from prunekit.foundation.unfinished import go_early, noted

HOLDER = ".lock.json"
"""Says who holds the folder; beside the lock itself, which another that wants it empties."""


@contextmanager
def lock(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for as long as the block runs; the system frees it after a kill.

    Args:
        folder: it must be there.
        wait: seconds to wait for another that holds it.

    Raises:
        ResourceError: another process holds it; the message names it.
        CheckpointError: its file is a link to another.
    """
    from filelock import FileLock, Timeout

    holder = folder / HOLDER
    if (folder / ".lock").is_symlink():  # what it points to would be emptied
        raise CheckpointError(f"{folder / '.lock'}: a link: remove it")
    file = FileLock(folder / ".lock", timeout=wait)
    try:
        file.acquire()
    except Timeout as error:
        raise ResourceError(
            f"{folder}: in use by {_describe(holder)}: wait until it ends, or stop it"
        ) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        with noted(holder):
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
    finally:
        file.release()


def hold_unnamed(folder: Path) -> None:
    """Hold a folder on without the name of this process in it, if this process holds it.

    Before a change after which nobody takes the folder again: the name that a process leaves which
    is killed later would stay for good.
    """
    go_early(folder / HOLDER)


def _describe(holder: Path) -> str:
    try:
        value = read_json(holder)
        return f"process {value['pid']} on {value['host']}"
    except (CheckpointError, KeyError, TypeError):
        return "another process"
