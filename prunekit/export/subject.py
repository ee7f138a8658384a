"""What is exported: the finished model of a run, what goes into it, and images to try it on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from prunekit.data import DataSet, open_dataset
from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import CheckpointError, DataError
from prunekit.models.file_metadata import CONFIG, images_metadata
from prunekit.models.saved import load_model
from prunekit.pruning.compact.values import Proof, Removed, Stayed
from prunekit.recipe.schema import Recipe
from prunekit.registry.configs import DataSpec
from prunekit.runs.directory import RunDir, open_run
from prunekit.runs.tensors import read_tensors

MOST_IMAGES, FEWEST_IMAGES = 256, 16
"""An export is tried on at most and on at least so many images of the test split."""
MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class Subject:
    """A finished run, read back."""

    run: RunDir
    recipe: Recipe
    report: Mapping[str, Any]
    spec: DataSpec
    preprocessing: Preprocessing
    """What makes an input of an image, and the names of the classes."""
    model: nn.Module
    """On the CPU, in evaluation mode."""
    weights: Mapping[str, Tensor]
    """Its file: pruned entries are zero."""
    metadata: Mapping[str, str]
    """Of its file, with how images become its input."""
    masks: Mapping[str, Tensor]
    """Of the tensors of the file that were pruned: bool, True = kept."""
    images: Tensor
    """Float32 [N, C, H, W], test images in their order, normalised."""
    compact: Mapping[str, Any] | None = None
    """What was removed of the model, as `Compacted.document` has it; None where nobody asked."""

    @property
    def masked(self) -> tuple[str, ...]:
        """The names of the tensors that were pruned."""
        return tuple(self.masks)


def open_subject(run_dir: str | Path) -> Subject:
    """Read a finished run, and open its data.

    Raises:
        CheckpointError: no finished run, or its files do not fit each other.
        DataError: its data is not to be had, or has too few test images.
    """
    run = open_run(run_dir)
    report, recipe = run.report(), run.recipe()
    weights, metadata = read_tensors(run.existing(MODEL_FILE))
    model = load_model(run.existing(MODEL_FILE))
    spec = DataSpec(**json.loads(metadata[CONFIG])["data"])
    data = open_dataset(
        recipe.data, seed=recipe.seed, device=torch.device("cpu"), storage=run.storage()
    )
    if run.manifest().get("data") != data.fingerprint():
        raise CheckpointError(
            f"{run_dir}: the data changed since the run began: restore it, as the export is "
            "checked on its test images"
        )
    if len(data.classes) != spec.classes:
        raise CheckpointError(
            f"{run_dir}: the model has {spec.classes} classes, its data {len(data.classes)}"
        )
    with closing(data):
        images = _test_images(data)
    return Subject(
        run=run,
        recipe=recipe,
        report=report,
        spec=spec,
        preprocessing=data.preprocessing,
        model=model,
        weights=weights,
        metadata=metadata | images_metadata(data.preprocessing),  # files of before had none
        masks=_masks(run, report, weights),
        images=images,
        compact=_told_compact(run, report),
    )


@dataclass(frozen=True, slots=True)
class _Compact:
    """As `Compacted.document` has it."""

    removed: list[Removed]
    stayed: list[Stayed]
    replaced: dict[str, str]
    parameters: dict[Literal["before", "after"], int]
    proof: Proof | None


def _told_compact(run: RunDir, report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    told: Mapping[str, Any] | None = report.get("compact")
    if told is not None:
        try:
            TypeAdapter(_Compact).validate_python(told)
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            raise CheckpointError(
                f"{run.path / 'report.json'}: compact.{place}: not as prunekit writes it"
            ) from error
    return told


def unit_statistics(preprocessing: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel for pixel values of 0 .. 1."""
    mean, std = preprocessing.mean, preprocessing.std
    return tuple(value / 255 for value in mean), tuple(value / 255 for value in std)


def resizing(preprocessing: Preprocessing) -> str:
    """How an image comes to its size, in words."""
    size = "x".join(map(str, preprocessing.size)) + " pixels"
    if preprocessing.image_size is None:
        return f"as decoded, {size}"
    if preprocessing.resize is not None:
        return (
            f"{preprocessing.interpolation}, antialias {preprocessing.antialias}, shorter side to "
            f"{preprocessing.resize} pixels, then {preprocessing.crop} of {size}"
        )
    return (
        f"{preprocessing.crop}, {preprocessing.interpolation} to {size}, antialias "
        f"{preprocessing.antialias}"
    )


def _test_images(data: DataSet) -> Tensor:
    if data.test_size < FEWEST_IMAGES:
        raise DataError(
            f"the test split has {data.test_size} images: an export is checked on at least "
            f"{FEWEST_IMAGES}: give it more, or raise data.test_limit"
        )
    found: list[Tensor] = []
    for images, _ in data.eval_batches("test"):
        found.append(images)
        if sum(map(len, found)) >= MOST_IMAGES:
            break
    return torch.cat(found)[:MOST_IMAGES].contiguous()


def _masks(
    run: RunDir, report: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The masks of the pruned tensors, after a look whether the file has their zeros.

    Raises:
        CheckpointError: it has not.
    """
    if not report.get("layers"):
        return {}
    masks = {name: mask for name, mask in run.masks().items() if name in weights}
    for name, mask in masks.items():
        if mask.shape != weights[name].shape:  # units were removed
            masks[name] = weights[name] != 0
        elif bool(weights[name][~mask].any()):
            raise CheckpointError(f"{run.path / MODEL_FILE}: {name} is not zero where it is pruned")
    return masks
