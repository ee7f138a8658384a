"""What an earlier export left beside this one, where it is of the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.export.latency import OnnxLatency
from prunekit.export.parity import Parity
from prunekit.export.results import RECORD_FILE
from prunekit.export.snippets import ONNX_FILE, PACKED_FILE, PLAIN_FILE, PT2_FILE
from prunekit.foundation.files import read_json

NAMES = (ONNX_FILE, PT2_FILE, PACKED_FILE, PLAIN_FILE)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What stays of an export of before, as its record has it; of files that are still there."""

    files: Mapping[str, int] = field(default_factory=dict)
    """Name -> bytes."""
    checks: Mapping[str, Parity] = field(default_factory=dict)
    latency: OnnxLatency | None = None
    notes: tuple[str, ...] = ()
    normalize: bool = False
    """Whether its programs normalise."""


@dataclass(frozen=True, slots=True)
class _Record:
    """The part of `export.json` that is read again."""

    run: str
    model: str
    normalize: bool
    files: dict[str, int]
    checks: dict[str, Parity]
    latency: OnnxLatency | None
    notes: list[str]


def model_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, shapes and types, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        sha.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def earlier_files(
    folder: Path, run: str, model: str, *, written: Collection[str], normalize: bool | None
) -> Earlier:
    """The files in a folder that an earlier export of the same model wrote and this one does not.

    Args:
        folder: where the export goes.
        run: `<recipe>/<stamp>` of what is exported.
        model: its `model_digest`.
        written: names of the files of this export.
        normalize: whether its programs normalise; None where it writes none.
    """
    try:
        found = TypeAdapter(_Record).validate_python(read_json(folder / RECORD_FILE))
    except (CheckpointError, ValidationError):  # none, damaged, or of a version that did not tell
        return Earlier()
    if (found.run, found.model) != (run, model):
        return Earlier()
    files = {
        name: size
        for name, size in found.files.items()
        if name in NAMES and name not in written and _size(folder / name) == size
    }
    if normalize not in (None, found.normalize):
        files = {name: size for name, size in files.items() if name not in found.checks}
    return Earlier(
        files,
        {name: one for name, one in found.checks.items() if name in files},
        found.latency if ONNX_FILE in files else None,
        tuple(note for note in found.notes if note.partition(":")[0] in files),
        found.normalize and any(name in files for name in found.checks),
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def stale(folder: Path, files: Collection[str]) -> list[str]:
    """A sentence for each file of an earlier export that stays, and that nothing speaks of."""
    return [
        f"{folder / name} is of an earlier export, of another model or form: the card does not "
        "speak of it; delete it, or give the options of all files in one call."
        for name in NAMES
        if name not in files and (folder / name).is_file()
    ]
