"""Measured statistics on the disk: a sample is read once. The folder can be deleted at any time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from filelock import FileLock

from prunekit.data.pixel_statistics import Statistics
from prunekit.errors import WriteError
from prunekit.foundation.cache_files import cache_folder, note_use
from prunekit.foundation.files import text_of, write_json


def kept_statistics(of: str, measure: Callable[[], Statistics]) -> Statistics:
    """Those that are kept, else those that are measured. Other processes wait meanwhile.

    Args:
        of: changes with whatever `measure` depends on.
        measure: what it raises passes through.
    """
    try:
        key = hashlib.sha256(of.encode()).hexdigest()[:32]
        path = cache_folder() / f"statistics-{key}.json"
    except RuntimeError:  # no home
        return measure()
    if (found := _read(path)) is not None:
        return found
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # then each process measures
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))
        found = _read(path)
        if found is None:
            found = measure()
            with suppress(WriteError, OSError):
                write_json(path, {"mean": found[0].tolist(), "std": found[1].tolist()})
    return found


def _read(path: Path) -> Statistics | None:
    """None where the file is missing or damaged."""
    try:
        document = json.loads(text_of(path))
        mean, std = (torch.tensor(document[key], dtype=torch.float64) for key in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    note_use(path)
    return (mean, std) if mean.ndim == 1 and mean.shape == std.shape and len(mean) else None
