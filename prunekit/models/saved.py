"""`model.safetensors`: a plain state dict; in its metadata what builds the model and feeds it.

Stock PyTorch needs no prunekit: `model.load_state_dict(load_file(path), strict=True)`. Where the
run had a compressor the stock model computes something else, as it does not hold the compressor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import CheckpointError, RecipeError, UsageError
from prunekit.foundation.modules import copy_on, one_forward
from prunekit.foundation.system import followed
from prunekit.models.bounds import settings_in
from prunekit.models.file_metadata import CONFIG, first_fault, read_preprocessing
from prunekit.models.rebuilt import NOT_BUILT, built_as, built_with
from prunekit.models.resized import sizes_left
from prunekit.registry.own_code import CodeFile, code_of, require_code, use_code
from prunekit.runs.directory import model_file
from prunekit.runs.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from prunekit.registry.configs import CompressorConfig, DataSpec, ModelConfig

IMAGES_TRIED = 2
TOLERANCE = 1e-9
"""Largest difference of the logits of a model that is built again, over the largest logit."""


def model_metadata(
    model: nn.Module,
    config: ModelConfig,
    compressors: Sequence[CompressorConfig],
    spec: DataSpec,
) -> dict[str, str]:
    """What `load_model` needs to build `model` again; empty where that is not possible.

    A model that has lost units which its config cannot tell, as one of torchvision, timm or a file
    of one's own, is built with the sizes that are left, if it then computes what `model` does: some
    have a width in their code.

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
    if (code := code_of(config, compressors)) is not None:
        built["code"] = code.told()
    try:
        again = built_as(built)
        if _shapes(again) != _shapes(model):
            built["sizes"] = sizes_left(model, again).model_dump(mode="json")
            weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
            if not _same_logits(model, built_with(built, weights), spec):
                return {}
    except NOT_BUILT:
        return {}
    return {CONFIG: json.dumps(built)}


def not_built(name: str) -> str:
    """Why a smaller model without metadata is of no use to `load_model`, and what there is."""
    return (
        f"no config of {name!r} builds the smaller model, so its file could not be loaded again: "
        "take Compacted.model of prunekit.compact(model, masks)"
    )


def _same_logits(model: nn.Module, again: nn.Module, spec: DataSpec) -> bool:
    noise = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES_TRIED, *spec.input_shape, generator=noise, dtype=torch.float64)
    before, after = (_logits(each, images) for each in (model, again))
    return before.shape == after.shape and bool(
        (before - after).abs().max() <= TOLERANCE * before.abs().max()
    )


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    own = copy_on(model, "cpu").double()
    with one_forward(own):
        logits: Tensor = own(images)
    return logits


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


def load_model(source: str | Path, *, code: str | Path | CodeFile | None = None) -> nn.Module:
    """Build the model of a finished run, with its compressors, and load its weights.

    It takes what it was trained on, which `prunekit.preprocessing(source)` makes of images.

    Args:
        source: a run directory, `runs/<recipe>/latest`, a folder that `prunekit compact` wrote, or
            a `model.safetensors`.
        code: the file of your own that the model is from, where it is: nothing that the source
            names is ever run.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: missing, corrupt, or not what this version builds from its metadata; or it
            was made with code that is not given, or has changed since.
        UsageError, PluginError: see `use_code`.
    """
    path, weights, metadata = _opened(source)
    with use_code(code):
        settings = _settings(path, metadata)
        try:
            return built_with(settings, weights)
        except NOT_BUILT as error:
            raise _not_loaded(path, error) from error


def load_at_eval_ratio(source: str | Path, eval_ratio: float) -> nn.Module:
    """`load_model`, each compressor with another ratio in evaluation.

    Args:
        source: as there.
        eval_ratio: share that each compressor removes, of what its `ratio_of` says; in [0, 1).

    Raises:
        UsageError: a compressor has no such ratio, or it leaves no token.
        CheckpointError: as `load_model`.
    """
    path, weights, metadata = _opened(source)
    settings = _settings(path, metadata)
    compressors = settings.get("compressors") or ()
    if not compressors:
        raise UsageError(f"{path}: has no compressor whose ratio could be another one")
    for one in compressors:
        if "eval_ratio" not in one:
            raise UsageError(f"{path}: compressor {one.get('name')!r} has no eval_ratio")
    changed = [{**one, "eval_ratio": eval_ratio} for one in compressors]
    try:
        return built_with({**settings, "compressors": changed}, weights)
    except RecipeError as error:
        raise UsageError(f"eval_ratio {eval_ratio:g}: {error}") from error
    except NOT_BUILT as error:
        raise _not_loaded(path, error) from error


def keys_of_sizes(source: str | Path, config: ModelConfig) -> dict[str, Any]:
    """The keys in which a file of the same architecture has another size than a config.

    Args:
        source: as in `load_model`.
        config: of a model that the tensors of the file do not fit.

    Returns:
        Key -> value to write below `model`; empty where the file is of another model, or not ours.
    """
    try:
        path, _, metadata = _opened(source)
        there = _settings(path, metadata)["model"]
    except (*NOT_BUILT, CheckpointError):
        return {}
    here = config.model_dump(mode="json")
    if not isinstance(there, dict) or there.get("name") != here["name"]:
        return {}
    return {
        key: there[key]
        for key in here
        if key in there.keys() - {"init"} and there[key] != here[key]
    }


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if CONFIG not in metadata:
        raise CheckpointError(
            f"{path}: does not tell which model it holds: it was not written by a prunekit run"
        )
    try:
        settings = settings_in(metadata[CONFIG])
    except NOT_BUILT as error:
        raise _not_loaded(path, error) from error
    require_code(settings.get("code"), path)
    return settings


def _not_loaded(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be loaded by this version of prunekit: {first_fault(error)}"
    )


def preprocessing(source: str | Path) -> Preprocessing:
    """How the images of a finished run became the input of its model, and what its classes are.

    Args:
        source: a run directory, `runs/<recipe>/latest`, or a `model.safetensors`.

    Returns:
        A frozen value to be called with a uint8 batch; its `read` takes image files.

    Raises:
        CheckpointError: missing, corrupt, or a file that does not say it, as those of earlier
            versions.
    """
    path, _, metadata = _opened(source)
    return read_preprocessing(path, metadata)


def _opened(source: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    path = followed(source)
    if path.is_dir():
        path = model_file(path)
    return path, *read_tensors(path)


__all__ = [
    "keys_of_sizes",
    "load_at_eval_ratio",
    "load_model",
    "model_metadata",
    "not_built",
    "preprocessing",
    "write_model",
]
