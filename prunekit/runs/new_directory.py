"""A new run directory, whole from the first, with `latest` beside it; what a kill left of one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from prunekit.foundation.files import cannot_write, flush
from prunekit.foundation.parts import remove
from prunekit.foundation.system import point_to
from prunekit.foundation.unfinished import part_for


def new_run_dir(
    out: Path, name: str, hash8: str, documents: Mapping[str, str] | None = None
) -> Path:
    """Make a run directory `<out>/<name>/<UTC>-<hash8>`, which has its documents from the first.

    A process that is killed on the way leaves none; what it began goes with the next call.

    Args:
        out: the parent of all run directories.
        name: the recipe's name.
        hash8: the first digits of the recipe's hash.
        documents: name -> text of the files that say what the run is.

    Raises:
        WriteError: it cannot be made; folders made on the way are removed again.
        StopRequestedError: a signal asked for a stop, and nothing around this counts them.
    """
    parent = out / name
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{hash8}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if not documents:
            return _first_free(parent, stamp, Path.mkdir)
        with part_for(parent / hash8) as part:
            part.mkdir()
            for file, text in documents.items():
                (part / file).write_text(text, encoding="utf-8")
                flush(part / file)
            flush(part)
            made = _first_free(parent, stamp, part.rename)
            flush(parent)
        return made
    except OSError as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise cannot_write(parent, error) from error


def _first_free(parent: Path, stamp: str, take: Callable[[Path], object]) -> Path:
    # two runs of one recipe may start in the same second
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            take(path)
            return path
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        number += 1


def point_latest(run_dir: Path) -> None:
    """Point `latest` beside `run_dir` at it, in one step: a relative link, where there are links.

    Raises:
        WriteError: `latest` is something else than a link, or cannot be written.
    """
    latest = run_dir.parent / "latest"
    try:
        point_to(latest, run_dir.name)
    except OSError as error:
        raise cannot_write(latest, error) from error


def clear_parts(run_dir: Path) -> None:
    """Delete what a kill left half-written; the run must be held, so that nobody writes it."""
    for folder in (run_dir, run_dir / "checkpoints"):
        for part in folder.glob(".*.part"):
            remove(part)
