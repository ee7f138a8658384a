"""Folders whose files are all there or none of them. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.files import cannot_write, flush
from prunekit.foundation.parts import clear_beside
from prunekit.foundation.unfinished import part_for, stop_if_asked, unfinished


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder whose files move to `folder` if nothing is raised, and are gone if something is.

    Raises:
        UsageError: `folder` is a file.
        WriteError: it cannot be written.
        StopRequestedError: a signal asked for a stop, and nothing around this counts them.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder")
    missing = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    done = False

    def give_up(made: Path) -> None:
        if not done:
            with suppress(OSError):
                made.rmdir()

    with ExitStack() as until:
        for made in reversed(missing):
            until.enter_context(unfinished(made, str(folder), give_up))
        temporary = until.enter_context(part_for(_beside_its_files(folder), str(folder)))
        try:
            temporary.mkdir(parents=True)
            yield temporary
            stop_if_asked()
            folder.mkdir(exist_ok=True)
            for path in temporary.iterdir():
                flush(path)
                os.replace(path, folder / path.name)
            flush(folder)
            done = True
        except OSError as error:
            raise cannot_write(folder, error) from error


def _beside_its_files(folder: Path) -> Path:
    """Where a part of a folder lies: in it once it is there, and else beside it.

    A folder that is there may be a link or a disk of its own, and the one around it closed.
    """
    if not folder.is_dir():
        return folder
    clear_beside(folder.absolute())
    return folder / "files"
