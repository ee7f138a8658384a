"""Refusal of links: a run writes and deletes in its own folder alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from prunekit.errors import CheckpointError
from prunekit.runs.directory import events_dir


def refuse_links(run_dir: Path) -> None:
    """A run writes and deletes in its own folder alone; a link in it would lead elsewhere.

    So would one to the folder of its events beside it. A pipe or a device would be waited for.

    Raises:
        CheckpointError: a file or folder of the run is a link, or neither file nor folder.
    """
    events = events_dir(run_dir)
    refuse_link(events.parent)
    refuse_link(events)
    for folder, folders, files in os.walk(run_dir):
        for name in (*folders, *files):
            refuse_link(Path(folder, name))


def refuse_link(path: Path) -> None:
    """Refuse a path that leads elsewhere, before anything is written or deleted through it.

    Raises:
        CheckpointError: it is a link, or neither file nor folder; what is not there is neither.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        raise CheckpointError(
            f"{path}: a link, through which would be written or deleted elsewhere: put what it "
            "points to in its place"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(f"{path}: neither a file nor a folder: remove it")
