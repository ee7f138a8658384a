"""Measured statistics on the disk: a sample is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from prunekit.data.kept_document import kept
from prunekit.data.pixel_statistics import Statistics


def kept_statistics(of: str, measure: Callable[[], Statistics]) -> Statistics:
    """Those that are kept, else those that are measured.

    Args:
        of: changes with whatever `measure` depends on.
        measure: what it raises passes through.
    """
    key = hashlib.sha256(of.encode()).hexdigest()[:32]
    return kept(f"statistics-{key}.json", measure, _told, _read)


def _told(found: Statistics) -> dict[str, Any]:
    return {"mean": found[0].tolist(), "std": found[1].tolist()}


def _read(document: Any) -> Statistics:
    mean, std = (torch.tensor(document[key], dtype=torch.float64) for key in ("mean", "std"))
    if mean.ndim != 1 or mean.shape != std.shape or not len(mean):
        raise ValueError("mean and std are numbers of each channel")
    return mean, std
