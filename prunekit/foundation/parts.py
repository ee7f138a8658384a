"""Names of what is written before it has its own, and what a killed process left. Torch-free."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import zlib
from contextlib import suppress
from pathlib import Path

SUFFIX = ".part"


def part_beside(path: Path) -> Path:
    """A name beside `path` that no other process has; what one left of it that is gone, goes.

    `.<name>.<host>-<process>.part`.
    """
    clear_beside(path)
    return path.with_name(f".{path.name}.{host_digits()}-{os.getpid()}{SUFFIX}")


def clear_beside(path: Path) -> None:
    """Delete the parts of `path` whose process is gone.

    What another machine left stays: its process may be at work.
    """
    with suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{host_digits()}-*{SUFFIX}"):
            number = left.name.removesuffix(SUFFIX).rpartition("-")[2]
            if number.isdecimal() and not is_at_work(int(number)):
                remove(left)


def is_part(name: str) -> bool:
    """Whether a file or folder of this name is none that was ever whole."""
    return name.startswith(".") and name.endswith(SUFFIX)


def remove(part: Path) -> None:
    """Delete a file, a link or a folder, if it can be."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def host_digits() -> str:
    """Eight hex digits that stand for this machine."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def is_at_work(process: int) -> bool:
    """Whether this machine has a process of that number that has not ended.

    One that has ended keeps its number until its parent asks for it, which the first process of a
    container may never do.
    """
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user
        return True
