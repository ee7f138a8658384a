"""The classes of image files, and which patches of them a model merged on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunekit.errors import CheckpointError, DataError, UsageError
from prunekit.export.served import ServedModel, open_served
from prunekit.models.patch_groups import TokenWatch, patch_groups
from prunekit.registry.own_code import CodeFile, use_code
from prunekit.runs.merged_patches import PatchGroups

BATCH = 32
"""Images at a time."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model takes an image for."""

    image: str
    """Its path, as it was given."""
    classes: tuple[tuple[str, float], ...]
    """Names and probabilities, the likeliest first."""
    merged: PatchGroups | None = None
    """Which patches became one token, where that was asked for."""


def predict(
    source: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    merged: bool = False,
    device: str | None = None,
    code: str | Path | CodeFile | None = None,
) -> list[Prediction]:
    """Read image files as the images of the training were, and give their likeliest classes.

    Args:
        source: a run directory, an `.onnx` file that prunekit exported (extra `onnx`), or a
            `.safetensors` file that it wrote.
        images: JPEG, PNG, PPM, BMP, TIFF or WebP files.
        top: classes an image, 1 or more; no more than there are.
        merged: also tell which patches were merged.
        device: as a recipe's; None = that of the run, where it is here, else `auto`.
        code: the file of your own that the run was made with, where it was.

    Raises:
        UsageError: no image, `top` below 1, onnxruntime is not installed, or `merged` of a model
            that does not tell it.
        CheckpointError: no finished run, a file of another program, or logits that are not finite.
        DataError: an image is not there, cannot be decoded or does not fit; names it.
    """
    if not images:
        raise UsageError("no image: give the files to look at")
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")
    for path in map(Path, images):
        if not path.is_file():
            what = "a folder: give its image files" if path.is_dir() else "no such image"
            raise DataError(f"{path}: {what}")
    with use_code(code):
        served = open_served(source, device)
    watch = TokenWatch(served.module, served.path) if merged else None
    found: list[Prediction] = []
    with served.as_in_its_run():
        for begin in range(0, len(images), BATCH):
            found += _predict(served, images[begin : begin + BATCH], top, watch)
    return found


@torch.no_grad()
def _predict(
    served: ServedModel, images: Sequence[str | Path], top: int, watch: TokenWatch | None
) -> list[Prediction]:
    prepared = served.preprocessing
    batch = prepared.read(images).to(served.device)
    groups: list[PatchGroups | None] = [None] * len(images)
    if watch is None:
        logits = served.logits(batch)
    else:
        with watch:
            logits = served.logits(batch)
        groups = [*patch_groups(watch, batch, prepared)]
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(f"{served.path}: gives logits that are not finite: it diverged")
    return [
        Prediction(str(image), _likeliest(row, prepared.classes, top), group)
        for image, row, group in zip(images, logits.float().softmax(-1).cpu(), groups, strict=True)
    ]


def _likeliest(row: Tensor, classes: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    """Of equal probabilities the first class goes before."""
    order = row.argsort(descending=True, stable=True)[:top].tolist()
    return tuple((classes[place], float(row[place])) for place in order)
