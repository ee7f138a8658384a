"""The index of a large folder, kept in the cache: its files are looked at once, not at each start.

A folder changes its own time when something in it comes, goes or is renamed, so the times of all
folders tell whether the index still holds. A file that was written over in its place does not show
there: some are looked at each time, and each when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunekit.data.file_index import FileIndex, FolderLayout, index_files
from prunekit.errors import WriteError
from prunekit.foundation.cache_files import cache_folder, note_use
from prunekit.foundation.files import replacing
from prunekit.foundation.warn import warn_once
from prunekit.registry.configs import Split

FORMAT = 1
"""Part of the key: to be raised when the same folders would give another index."""
LARGE = 20_000
"""Images from which on an index is kept: those of fewer are listed in a moment."""
RACE_NS = 2_000_000_000
"""A folder that changed so shortly before it was listed may change again at the same time."""
LOOKED_AT = 256
"""Files of a kept index that are compared with the disk."""
SPLITS: tuple[Split, ...] = ("train", "test")
ARRAYS = ("names", "ends", "labels", "sizes", "times")


def kept_index(layout: FolderLayout) -> dict[Split, FileIndex]:
    """The images of both splits: as they were listed before, where nothing changed since.

    Raises:
        DataError: as of `index_files`.
    """
    path = _path(layout)
    if path is not None and (found := _read(path, layout)) is not None:
        return found
    began = time.time_ns()
    indices, times = index_files(layout)
    settled = max(times.values()) < began - RACE_NS
    if path is None or not settled or sum(map(len, indices.values())) < LARGE:
        return indices
    try:
        _write(path, indices, times)
    except (WriteError, OSError) as error:
        warn_once(f"the list of images is not kept for the next run: {error}")
        return indices
    return {split: replace(index, kept=path) for split, index in indices.items()}


def _path(layout: FolderLayout) -> Path | None:
    text = repr((FORMAT, str(layout.root), layout.test_folder, layout.test_labels))
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
    try:
        return cache_folder() / f"{key}.index.safetensors"
    except RuntimeError:  # no home
        return None


def _write(path: Path, indices: Mapping[Split, FileIndex], times: Mapping[str, int]) -> None:
    tensors = {
        f"{split}.{name}": getattr(index, name)
        for split, index in indices.items()
        for name in ARRAYS
    }
    metadata = {
        "times": json.dumps(times),
        "classes": json.dumps(indices["train"].classes),
        "notes": json.dumps({split: index.notes for split, index in indices.items()}),
        "digests": json.dumps({split: index.digest() for split, index in indices.items()}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def _read(path: Path, layout: FolderLayout) -> dict[Split, FileIndex] | None:
    """None where there is none, where it is damaged, or no longer what the disk holds."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if not _holds(json.loads(metadata["times"])):
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classes = tuple(json.loads(metadata["classes"]))
        notes, digests = json.loads(metadata["notes"]), json.loads(metadata["digests"])
        found: dict[Split, FileIndex] = {}
        for split in SPLITS:
            arrays = {name: tensors[f"{split}.{name}"] for name in ARRAYS}
            index = FileIndex(
                layout.folder(split), classes, **arrays, notes=tuple(notes[split]), kept=path
            )
            if index.digest() != digests[split] or not _as_on_disk(index):
                return None
            found[split] = index
        note_use(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return found


def _holds(times: Mapping[str, int]) -> bool:
    return all(os.stat(path).st_mtime_ns == time_ns for path, time_ns in times.items())


def _as_on_disk(index: FileIndex) -> bool:
    step = max(1, len(index) // LOOKED_AT)
    for i in torch.arange(0, len(index), step).tolist():
        found = index.path(i).stat()
        if (found.st_size, found.st_mtime_ns) != (int(index.sizes[i]), int(index.times[i])):
            return False
    return True
