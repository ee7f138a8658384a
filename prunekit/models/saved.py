"""`model.safetensors`: a plain state dict, and in its metadata what builds the model.

Stock PyTorch needs no prunekit: `model.load_state_dict(load_file(path), strict=True)`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from prunekit.errors import CheckpointError, RecipeError
from prunekit.runs.directory import open_run
from prunekit.runs.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from prunekit.registry.configs import CompressorConfig, DataSpec, ModelConfig


CONFIG = "prunekit"
"""Metadata key: JSON of `{"model": ModelConfig, "data": DataSpec, "compressors": [...]}`."""
NOT_BUILT = (RecipeError, ValueError, KeyError, TypeError, RuntimeError)
"""What is raised where no model can be built, such as one with a layer without units."""


def model_metadata(
    model: nn.Module,
    config: ModelConfig,
    compressors: Sequence[CompressorConfig],
    spec: DataSpec,
) -> dict[str, str]:
    """What `load_model` needs to build `model` again; empty where no config builds it.

    Args:
        model: a finished model, perhaps with fewer units than `config` says.
        config: what it was built from.
        compressors: those in it.
        spec: the data it was built for.
    """
    built = {
        "model": config.sized_as(model).model_dump(mode="json"),
        "compressors": [compressor.model_dump(mode="json") for compressor in compressors],
        "data": asdict(spec),
    }
    try:
        again = _build(built)
    except NOT_BUILT:
        return {}
    return {CONFIG: json.dumps(built)} if _shapes(again) == _shapes(model) else {}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def write_model(
    path: Path, model: nn.Module, masks: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write the state dict of `model` in one piece, pruned entries exactly zero.

    Args:
        path: the file to make or replace.
        model: the plain module; it is not changed.
        masks: parameter name -> bool, True = kept.
        metadata: strings to keep with it; `prunekit` holds what `load_model` builds it from.

    Raises:
        ResourceError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    # by identity, as a tied parameter is masked under one of its names
    mask_of = {id(named[name]): mask for name, mask in masks.items()}
    tensors = {
        name: tensor.detach().masked_fill(~mask_of[id(tensor)].to(tensor.device), 0)
        if id(tensor) in mask_of
        else tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    write_tensors(path, tensors, metadata)


def load_model(source: str | Path) -> nn.Module:
    """Build the model of a finished run, with its compressors, and load its weights.

    It takes what it was trained on: float images [B, C, H, W] of `data.image_size`, pixel values
    less the mean and over the standard deviation of their channel in the training split.

    Args:
        source: a run directory, `runs/<recipe>/latest`, or a `model.safetensors`.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: missing, corrupt, or not what this version builds from its metadata.
    """
    path = Path(source)
    if path.is_dir():
        path = open_run(path).path / "model.safetensors"
    weights, metadata = read_tensors(path)
    if CONFIG not in metadata:
        raise CheckpointError(
            f"{path}: does not tell which model it holds: it was not written by a prunekit run"
        )
    try:
        model = _build(json.loads(metadata[CONFIG]))
        model.load_state_dict(weights, strict=True)
    except NOT_BUILT as error:
        reason = textwrap.shorten(str(error), 300)  # torch names every tensor, line by line
        raise CheckpointError(
            f"{path}: cannot be loaded by this version of prunekit: {reason}"
        ) from error
    return model.eval()


def _build(built: Mapping[str, Any]) -> nn.Module:
    from prunekit.models import attach, build_model
    from prunekit.registry import COMPRESSORS, MODELS
    from prunekit.registry.configs import DataSpec

    # as of before all formats: every key that there was is written out in the file
    # start weights would only be overwritten, and may be gone
    config = cast("ModelConfig", MODELS.parse({**built["model"], "init": None}, as_of=0))
    spec = DataSpec(**built["data"])
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, spec)
    for value in built.get("compressors", ()):
        compressor = COMPRESSORS.create(COMPRESSORS.parse(value, as_of=0))
        attach(model, compressor.config.slot, compressor, spec.input_shape)
    return model


__all__ = ["load_model", "model_metadata", "write_model"]
