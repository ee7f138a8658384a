"""What an export wrote, how it was checked and what it takes: `export.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunekit.export.latency import OnnxLatency
from prunekit.export.parity import Parity
from prunekit.runs.directory import EXPORT_RECORD

RECORD_FILE = Path(EXPORT_RECORD).name
"""What was found of the files, beside them."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, and how it was checked."""

    folder: Path
    files: Mapping[str, int]
    """Name -> bytes; also of `kept`."""
    checks: Mapping[str, Parity]
    """Of each file that computes: how far it is from the model."""
    zeros: int
    """In the pruned tensors, in each file alike."""
    seconds: float
    """Wall time of tracing and writing, the check left out."""
    notes: tuple[str, ...]
    """What to know of it, in sentences."""
    parameters: int
    """Of the model that the files hold: fewer than the run's where it was made compact for them."""
    latency: OnnxLatency | None = None
    """Of `model.onnx`; None where there is none, or it was not to be timed."""
    kept: tuple[str, ...] = ()
    """Those of `files` that an earlier export of the same model wrote, as they are."""

    def plain(self) -> dict[str, Any]:
        """As JSON values: `export.json`, but for its versions."""
        return {
            "files": dict(self.files),
            "checks": {
                name: {"images": one.images, "difference": one.difference, "other": list(one.other)}
                for name, one in self.checks.items()
            },
            "zeros": self.zeros,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "latency": self.latency.plain() if self.latency else None,
            "notes": list(self.notes),
        }
