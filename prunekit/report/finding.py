"""From the paths of a command line to runs. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import CheckpointError, PrunekitError
from prunekit.report.facts import RunFacts, clean, read_facts
from prunekit.runs.directory import open_run

MARK = "resolved.yaml"


@dataclass(frozen=True)
class Found:
    """The runs below some paths."""

    runs: tuple[RunFacts, ...]
    unreadable: tuple[str, ...]
    """One line for each that is corrupt."""


def find_runs(paths: Sequence[Path]) -> Found:
    """Read every run directory among `paths` and below them, each once.

    Raises:
        CheckpointError: a path has no run at or below it, or none of the runs can be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        below = list(_run_dirs(path))
        if not below:
            what = "no run directory in it" if path.is_dir() else "no such folder"
            raise CheckpointError(
                f"{path}: {what}: give run directories, a folder of them such as `runs`, or the "
                "directory of a sweep"
            )
        folders.update(dict.fromkeys(below))
    runs, unreadable = [], []
    for folder in folders:
        try:
            runs.append(read_facts(open_run(folder)))
        except PrunekitError as error:
            unreadable.append(clean(str(error)))
    if not runs:
        raise CheckpointError(f"{paths[0]}: no run that can be read: {unreadable[0]}")
    return Found(tuple(runs), tuple(unreadable))


def _run_dirs(path: Path) -> Iterator[Path]:
    """Run directories at or below `path`, in the order of their names; no link is followed."""
    if (path / MARK).is_file():
        yield path.resolve()
        return
    for folder, below, files in os.walk(path):
        below.sort()
        if MARK in files:
            below.clear()
            yield Path(folder).resolve()
