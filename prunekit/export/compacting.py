"""A finished run without what its masks emptied: as a file that `load_model` reads, or exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prunekit.errors import ExportError
from prunekit.export.subject import MODEL_FILE, Subject, open_subject
from prunekit.foundation.devices import HOST, choose_device, cpu_threads
from prunekit.foundation.modules import copy_on
from prunekit.foundation.whole_folder import all_or_nothing
from prunekit.models.cost import count_macs
from prunekit.models.file_metadata import images_metadata
from prunekit.models.saved import load_model, model_metadata, not_built
from prunekit.pruning.compact import Compacted, compact
from prunekit.pruning.sparsity import masks_left
from prunekit.registry.own_code import CodeFile, use_code
from prunekit.runs.links import refuse_link
from prunekit.runs.tensors import write_tensors

FOLDER, NUMBERS_FILE = "compact", "compact.json"


@dataclass(frozen=True, slots=True)
class CompactRun:
    """What was written, and what was removed for it."""

    folder: Path
    files: Mapping[str, int]
    """Name -> bytes."""
    document: Mapping[str, Any]
    """That of `compact.json`."""
    notes: tuple[str, ...]
    """What to know of it, in sentences."""


def compact_run(
    run_dir: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "cpu",
    code: str | Path | CodeFile | None = None,
) -> CompactRun:
    """Write the finished model of a run without its empty heads, channels and hidden units.

    See `prunekit.compact` for what leaves and how that is proved, here on test images.

    Args:
        run_dir: a run directory, `runs/<recipe>/latest`.
        out: the folder; `compact` in the run directory where it is None. It gets
            `model.safetensors`, which `prunekit.load_model` reads, and `compact.json`.
        device: where the smaller model is tried, as a recipe's; on the CPU if that has no float64.
        code: the file of your own that the run was made with, where it was.

    Raises:
        CheckpointError: no finished run, or its files or data do not fit each other.
        DataError: its data is not to be had, or has too few test images.
        UsageError: a package of the extra `removal` is needed and not installed.
        RecipeError: no such device here.
        ExportError: the smaller model does not give what the model gives, or cannot be built again.
        WriteError: the folder cannot be written.
        StopRequestedError: a signal asked for a stop. After any of these nothing was written.
    """
    with use_code(code):
        place = choose_device(device)
        subject = open_subject(run_dir)
        with cpu_threads(subject.recipe.threads):
            return _compacted(subject, out, place)


def _compacted(subject: Subject, out: str | Path | None, device: torch.device) -> CompactRun:
    before = count_macs(subject.model, subject.spec.input_shape, subject.masks)
    smaller = without_empty(subject, device)
    after = count_macs(smaller.model, subject.spec.input_shape)
    document = {
        "schema_version": 1,
        "run": f"{subject.recipe.name}/{subject.run.path.name}",
        **(smaller.compact or {}),
        "macs": {"before": before.executed, "after": after.executed},
    }
    folder = subject.run.path / FOLDER if out is None else Path(out)
    if out is None:
        refuse_link(folder)
    with all_or_nothing(folder) as temporary:
        path = temporary / MODEL_FILE
        write_tensors(path, smaller.weights, smaller.metadata)
        load_model(path)
        text = json.dumps(document, indent=2, allow_nan=False)
        (temporary / NUMBERS_FILE).write_text(text + "\n", encoding="utf-8")
        path.chmod((temporary / NUMBERS_FILE).stat().st_mode)  # safetensors: the owner's alone
        files = {one.name: one.stat().st_size for one in sorted(temporary.iterdir())}
    return CompactRun(folder, files, document, notes_of(document))


def notes_of(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person is told beside the numbers."""
    if document["removed"]:
        return ()
    if document["stayed"]:
        return ("Nothing was removed: what is empty is needed where it is.",)
    return (
        "Nothing was removed: no head and no channel is empty. The structures head and channel "
        "prune whole ones.",
    )


def without_empty(subject: Subject, device: torch.device = HOST) -> Subject:
    """The subject without what is empty in its model, which is on the CPU again.

    Args:
        subject: a finished run.
        device: where the smaller model is tried.

    Raises:
        UsageError, ExportError: see `compact_run`.
    """
    model = subject.model if device == HOST else copy_on(subject.model, str(device))
    masks = {name: mask.to(device) for name, mask in subject.masks.items()}
    found = _on_host(compact(model, masks, images=subject.images.to(device)))
    recipe, report = subject.recipe, dict(subject.report)
    metadata = model_metadata(found.model, recipe.model, recipe.compressors, subject.spec)
    if not metadata:
        raise ExportError(f"compact: {not_built(recipe.model.name)}")
    if found.removed:
        report |= _cost(subject, found)
    return replace(
        subject,
        report=report,
        model=found.model,
        weights={name: tensor.detach() for name, tensor in found.model.state_dict().items()},
        metadata=metadata | images_metadata(subject.preprocessing),
        masks=found.masks,
        compact=with_earlier(subject.compact, found),
    )


def _on_host(found: Compacted) -> Compacted:
    found.model.to(HOST)
    return replace(found, masks={name: mask.to(HOST) for name, mask in found.masks.items()})


def with_earlier(earlier: Mapping[str, Any] | None, found: Compacted) -> dict[str, Any]:
    """What was removed now, after what the run itself removed."""
    now = found.document()
    if earlier is None:
        return now
    sizes = {
        "before": earlier["parameters"]["before"],
        "after": now["parameters"]["after"],
    }
    return {
        **now,
        "removed": [*earlier["removed"], *now["removed"]],
        "replaced": {**earlier["replaced"], **now["replaced"]},
        "parameters": sizes,
        "proof": now["proof"] or earlier["proof"],
    }


def _cost(subject: Subject, found: Compacted) -> dict[str, Any]:
    """What the report of the run says otherwise of the smaller model; no time was measured."""
    shape, old = subject.spec.input_shape, subject.report
    macs = count_macs(found.model, shape, masks_left(found.model, found.masks))
    dense = old.get("macs", {}).get("dense", macs.dense)
    stored = found.parameters[1]
    return {
        "macs": asdict(replace(macs, dense=dense)),
        "parameters": {**old.get("parameters", {}), "stored": stored},
    }
