"""What the finished model of a run costs as measured: time beside its dense model, and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from prunekit.foundation.devices import device_name
from prunekit.foundation.number_text import counted
from prunekit.models.cost import Macs
from prunekit.models.latency import (
    Latencies,
    by_batch,
    dense_model,
    measure_latency,
    saving_sentence,
)
from prunekit.runs.sizes import file_sizes
from prunekit.train.trainer import Trainer

SHARE, FEWEST_SECONDS, MOST_SECONDS = 0.05, 0.1, 3.0
"""Of the time of training, what timing may take; and its bounds."""
ZIP_SECONDS = 20
"""Zipping may take so many times as long: it is not repeated."""


def measured_costs(trainer: Trainer, model: nn.Module, macs: Macs) -> dict[str, Any]:
    """`latency`, `files` and `saving` of `report.json`; docs/run-directory.md has the units.

    Args:
        trainer: of a run whose model file is written.
        model: the finished model, on its device.
        macs: of it.
    """
    recipe, spec, device = trainer.run.recipe, trainer.data.spec, trainer.device
    seconds = timing_seconds(trainer.watch.seconds)
    notes: list[str] = []
    dense: nn.Module | None = model
    if recipe.strategies or recipe.compressors:
        dense = dense_model(recipe.model, spec, model, notes)
    found = measure_latency(model, dense, spec.input_shape, seconds)
    sizes = asdict(file_sizes(trainer.run_dir / "model.safetensors", ZIP_SECONDS * seconds))
    if sizes["zipped"] is None:
        notes.append("the zipped size is not measured: the file is large, and the run was short")
    sizes["dense"] = None if dense is None else sizes["plain"] + _bytes(dense) - _bytes(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    about = {
        "device": "cpu" if device.type == "cpu" else device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    where = f"torch on {about['device']}, {counted(torch.get_num_threads(), 'thread')}"
    return {
        "latency": _latency(found, about, notes, trainer.observer.warnings),
        "files": sizes,
        "saving": saving_sentence(macs, found, where),
    }


def timing_seconds(trained: float) -> float:
    """Seconds that timing may take, about, after a training of so many."""
    return min(max(SHARE * trained, FEWEST_SECONDS), MOST_SECONDS)


def _latency(
    found: Latencies, about: Mapping[str, Any], notes: list[str], warnings: list[str]
) -> dict[str, Any] | None:
    """As earlier versions had it, for one image, and then each batch beside dense.

    None where one image could not be timed, which is warned of.
    """
    one = next((one for one in found.found if one.batch == 1), None)
    if one is None:
        warnings += [*notes, *found.notes]
        return None
    return {
        "median_ms": one.median_ms,
        "iqr_ms": one.iqr_ms,
        "batch": one.batch,
        **about,
        "torch": by_batch(found),
        "notes": [*notes, *found.notes],
    }


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
