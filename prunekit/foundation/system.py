"""What Linux, macOS and Windows do in their own ways: memory, sessions, links. Imports no torch.

A part of Python that a system lacks is looked for where it is needed, and has a way without it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from prunekit.foundation.unfinished import part_for

CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
POINTER_BYTES = 255
"""The longest name of a folder: what is larger is no pointer."""


def memory_in_all() -> int:
    """Bytes of memory of the host, be they in use or not."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_left() -> int:
    """Bytes that can still be taken on the host; no more than the control group has (Linux)."""
    import psutil

    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        available = min(available, int(CONTROL_GROUP.read_text(encoding="ascii")))
    return available


def peak_of_process() -> int:
    """Bytes that this process had resident at most, since it began."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        found = psutil.Process().memory_info()
        return int(getattr(found, "peak_wset", found.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seconds_of_children() -> float:
    """Processor seconds of the child processes that have ended; 0 on Windows, which counts none."""
    try:
        import resource
    except ImportError:
        ended = os.times()
        return ended.children_user + ended.children_system
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def load_of_machine() -> float:
    """Processes that ran or waited to, mean of the last minute."""
    import psutil

    return float(psutil.getloadavg()[0])


def leave_terminal() -> None:
    """Hear no Ctrl-C any more, which is for the process that started this one."""
    if hasattr(os, "setsid"):
        os.setsid()


def point_to(pointer: Path, name: str) -> None:
    """Make `pointer` lead to the folder `name` beside it, in one step.

    By a relative link; where the system gives nobody the right to make one (Windows outside of its
    developer mode), by a file that holds the name, which `pointed_at` reads.

    Raises:
        OSError: neither can be written, or something else has the name of `pointer`.
    """
    with part_for(pointer) as temporary:
        try:
            temporary.symlink_to(name, target_is_directory=True)
        except (OSError, NotImplementedError):
            temporary.write_text(name, encoding="utf-8")
        if os.name == "nt" and pointer.is_symlink():  # where none to a folder can be replaced
            pointer.unlink()
        os.replace(temporary, pointer)


def followed(path: str | Path) -> Path:
    """The folder that `path` leads to where it is a file that `point_to` made; else `path`."""
    path = Path(path)
    return path if path.is_symlink() else pointed_at(path) or path


def pointed_at(pointer: Path) -> Path | None:
    """The folder that `point_to` made it lead to; None = it is no such pointer.

    A file counts where it holds the name of a folder that lies beside it, and nothing else.
    """
    with suppress(OSError, ValueError):
        if pointer.is_symlink():
            return pointer.parent / os.readlink(pointer)
        if pointer.is_file() and pointer.stat().st_size <= POINTER_BYTES:
            name = pointer.read_text(encoding="utf-8")
            plain = name not in ("", ".", "..") and not set(name) & set("/\\:\0\n")
            if plain and (found := pointer.parent / name).is_dir():
                return found
    return None
