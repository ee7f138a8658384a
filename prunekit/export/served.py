"""What is evaluated or asked for classes: the model of a run or a file, ready to take images."""

from __future__ import annotations

import importlib.util
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.data import open_dataset
from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import CheckpointError, UsageError
from prunekit.export.programs import INPUT, OUTPUT
from prunekit.export.subject import MODEL_FILE
from prunekit.foundation.autocast import DTYPES, autocast
from prunekit.foundation.devices import AUTO, cpu_threads, device_of_run
from prunekit.foundation.numerics import Numerics
from prunekit.foundation.system import followed
from prunekit.models.file_metadata import IMAGES, read_preprocessing
from prunekit.models.memory_format import laid_out, lies_channels_last
from prunekit.models.saved import load_model
from prunekit.recipe.schema import Recipe
from prunekit.registry.own_code import current_code
from prunekit.runs.directory import RECIPES, RunDir, model_file, no_run, open_run
from prunekit.runs.tensors import read_tensors

PROGRAMS = (".pt2", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of files that are neither ONNX nor safetensors."""


@dataclass(frozen=True)
class ServedModel:
    """A model that takes images, wherever it comes from."""

    path: Path
    """The run directory or the file, as it was given."""
    logits: Callable[[Tensor], Tensor]
    """What `preprocessing` gives, [B, C, H, W] on `device` -> [B, classes] there."""
    preprocessing: Preprocessing
    data: Mapping[str, Any] | None
    """The settings of its data set; None = it does not tell."""
    device: torch.device
    module: nn.Module | None = None
    """In evaluation mode; None where a file computes without torch."""
    recipe: Recipe | None = None
    """Of the run that it belongs to."""
    world: int = 1
    """Processes among which the run shared its images out."""
    storage: Literal["memory", "stream"] | None = None
    """How that run kept its data; None = as the settings say."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Of the run whose finished model it is."""

    def with_module(self, module: nn.Module) -> ServedModel:
        """The same, with another model of torch."""
        module = module.to(self.device)
        logits = pass_of(module, self.recipe, _shape(self.preprocessing), self.device)
        return replace(self, module=module, logits=logits)

    @contextmanager
    def as_in_its_run(self) -> Iterator[None]:
        """As many CPU threads as the run had, rounded as it was: else last bits are others."""
        if self.recipe is None:
            yield
            return
        with cpu_threads(self.recipe.threads), Numerics.of(self.recipe).during():
            yield


def open_served(source: str | Path, device: str | None = None) -> ServedModel:
    """Open a run directory, an `.onnx` file that prunekit exported, or a `.safetensors` file.

    Args:
        source: the directory or the file.
        device: as a recipe's; None = that of the run, where it is here, else `auto`.

    Raises:
        CheckpointError: no finished run, a file of another program, or one that does not say what
            an image becomes.
        UsageError: onnxruntime is not installed, or is asked for another device than the CPU.
        RecipeError: no such device here.
    """
    path = followed(source)
    if path.is_dir() and (path / "compact.json").is_file():
        path = model_file(path)
    if path.is_dir():
        run = open_run(path)
        return _of_weights(path, run.existing(MODEL_FILE), run, device)
    if path.suffix.lower() in PROGRAMS:
        raise CheckpointError(
            f"{path}: is read by torch alone: give the run, or its file of ONNX or safetensors"
        )
    if path.suffix.lower() in RECIPES:
        raise CheckpointError(f"{path}: {no_run(path)}")
    run_of_it = _run_around(path)
    if path.suffix.lower() == ".onnx":
        if run_of_it is not None and run_of_it.code() is not None and current_code() is None:
            run_of_it = None  # it computes without that code
        if device not in (None, "auto", "cpu"):
            raise UsageError(f"--device {device}: {path} runs in onnxruntime, on the CPU")
        if not path.exists():
            raise CheckpointError(f"{path}: no such file")
        return _of_onnx(path, run_of_it)
    return _of_weights(path, path, run_of_it, device)


def _run_around(file: Path) -> RunDir | None:
    """The run whose folder, or whose `export/`, a file lies in."""
    for folder in file.absolute().parents[:2]:
        if (folder / "resolved.yaml").is_file():
            return open_run(folder)
    return None


def _of_weights(path: Path, file: Path, run: RunDir | None, wanted: str | None) -> ServedModel:
    recipe = run.recipe() if run else None
    device = device_of_run(recipe.device if recipe else AUTO, wanted)
    model = load_model(file).to(device)
    prepared = _preprocessing(file, run)
    return ServedModel(
        path=path,
        logits=pass_of(model, recipe, _shape(prepared), device),
        preprocessing=prepared,
        data=recipe.data.model_dump(mode="json") if recipe else None,
        device=device,
        module=model,
        recipe=recipe,
        world=run.processes() if run else 1,
        storage=run.storage() if run else None,
        report=run.report() if run is not None and path.is_dir() else {},
    )


def _shape(prepared: Preprocessing) -> tuple[int, ...]:
    return len(prepared.mean), *prepared.size


def pass_of(
    model: nn.Module, recipe: Recipe | None, shape: Sequence[int], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The forward pass in the precision of the run, of images that lie as they did in it.

    Args:
        model: on the device.
        recipe: of the run; None = none is known.
        shape: [C, H, W] of its images.
        device: where it computes.
    """
    last = recipe is not None and lies_channels_last(recipe, model, shape, device)

    def logits(images: Tensor) -> Tensor:
        with autocast(DTYPES[recipe.precision if recipe else "fp32"], device):
            found: Tensor = model(laid_out(images) if last else images)
        return found

    return logits


def _preprocessing(file: Path, run: RunDir | None) -> Preprocessing:
    """What the file says; of a run of an earlier version, what its own training split gives."""
    metadata = read_tensors(file)[1]
    if IMAGES in metadata or run is None:
        return read_preprocessing(file, metadata)
    recipe = run.recipe()
    data = open_dataset(
        recipe.data, seed=recipe.seed, device=torch.device("cpu"), storage=run.storage()
    )
    data.close()
    if run.manifest().get("data") != data.fingerprint():
        raise CheckpointError(
            f"{file}: does not tell how images become the input of its model, as files of earlier "
            "versions, and the data of its run changed: restore it"
        )
    return data.preprocessing


def _of_onnx(path: Path, run: RunDir | None) -> ServedModel:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError(
            f"{path} needs onnxruntime, which is not installed: pip install 'prunekit[onnx]'"
        )
    session = _session(path, run.recipe().threads if run else torch.get_num_threads())
    about: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if IMAGES not in about or "normalisation" not in about:
        raise CheckpointError(
            f"{path}: does not tell its classes and how images become its input: it was not "
            "written by prunekit export"
        )
    prepared = read_preprocessing(path, about)
    _check_ends(path, session, prepared)
    mean, std = (
        torch.tensor(values).div(255).view(-1, 1, 1) for values in (prepared.mean, prepared.std)
    )
    inside = about["normalisation"] == "inside"

    def logits(images: Tensor) -> Tensor:
        if inside:  # it takes pixel values of 0 .. 1
            images = images * std + mean
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    recipe = run.recipe() if run else None
    if run is None or recipe is None or about.get("run") != f"{recipe.name}/{run.path.name}":
        recipe = None  # the file was copied here
    return ServedModel(
        path=path,
        logits=logits,
        preprocessing=prepared,
        data=recipe.data.model_dump(mode="json") if recipe else _told_data(path, about),
        device=torch.device("cpu"),
        recipe=recipe,
    )


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, none of which it exports
        reason = textwrap.shorten(" ".join(str(error).split()), 200)
        raise CheckpointError(f"{path}: onnxruntime cannot read it: {reason}") from error


def _check_ends(path: Path, session: Any, prepared: Preprocessing) -> None:
    """Input and output are what the metadata says, which a file from anywhere may have wrong."""
    taken = {one.name: one.shape[1:] for one in session.get_inputs()}
    given = {one.name: one.shape[1:] for one in session.get_outputs()}
    expected = {INPUT: [len(prepared.mean), *prepared.size]}, {OUTPUT: [len(prepared.classes)]}
    if (taken, given) != expected:
        raise CheckpointError(
            f"{path}: takes {taken} and gives {given}, where its metadata says {expected[0]} and "
            f"{expected[1]}: it was not written by prunekit export"
        )


def _told_data(path: Path, about: Mapping[str, str]) -> Mapping[str, Any] | None:
    try:
        found = json.loads(about.get("data", "null"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it says of its data is no JSON") from error
    if not isinstance(found, dict):
        return None
    # a file from elsewhere does not choose what is read or fetched here
    return {key: value for key, value in found.items() if key not in ("root", "download")}
