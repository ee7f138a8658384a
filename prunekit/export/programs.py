"""A model as a program without Python: `torch.export` (PT2) and ONNX by its dynamo exporter."""

from __future__ import annotations

import importlib.util
import json
import logging
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from prunekit.errors import ExportError, UsageError

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
ORIGINS = ("stack_trace", "from_node", "custom")
PT2_METADATA = "prunekit.json"
"""The name of the metadata among the extra files of a PT2 archive."""


class Normalised(nn.Module):
    """A model that takes pixel values of 0 .. 1 and normalises them itself."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits."""
        logits: Tensor = self.model((images - self.mean) / self.std)
        return logits


def require_onnx(what: str = "--onnx") -> None:
    """See that the packages of the extra are there, for `what`.

    Raises:
        UsageError: names those that are not, and the line that installs them.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{what} needs {', '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not "
            "installed: pip install 'prunekit[onnx]'"
        )
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            raise UsageError(
                f"{what} needs {name}, which is installed and cannot be imported "
                f"({type(error).__name__}: {error}): pip install --force-reinstall {name}"
            ) from error


def trace(model: nn.Module, images: Tensor, name: str) -> ExportedProgram:
    """The program of a model, free in its batch.

    Args:
        model: in evaluation mode.
        images: inputs; only their shape matters.
        name: what the model is called, for the message.

    Raises:
        ExportError: it cannot be traced.
    """
    example = torch.zeros(2, *images.shape[1:])  # it is kept in the file: no picture of anybody's
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: Dim(BATCH)},), strict=False
            )
            return _without_origins(program)
    except Exception as error:  # whatever a third-party model or the tracer raises
        raise ExportError(
            f"model {name!r} cannot be traced by torch.export: {_reason(error)}"
        ) from error


def write_pt2(path: Path, program: ExportedProgram, metadata: Mapping[str, str]) -> None:
    """Write a program for `torch.export.load`, with its metadata as an extra file."""
    with _quiet():
        torch.export.save(program, path, extra_files={PT2_METADATA: json.dumps(dict(metadata))})


def write_onnx(
    path: Path, program: ExportedProgram, metadata: Mapping[str, str], name: str
) -> None:
    """Write a program as ONNX: input `images`, output `logits`, free in the batch.

    Raises:
        ExportError: an operator has no form in ONNX.
    """
    try:
        with _quiet(), torch.no_grad():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: BATCH},),
                verbose=False,
            )
            assert converted is not None, "by dynamo"
            converted.model.metadata_props.update(metadata)
            for node in converted.model.graph:
                node.metadata_props.clear()
            converted.save(path)
    except Exception as error:  # whatever the exporter raises
        raise ExportError(f"model {name!r} has no form in ONNX: {_reason(error)}") from error


def _without_origins(program: ExportedProgram) -> ExportedProgram:
    """The program without the lines of source that each node came from: paths of this machine."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            for key in ORIGINS:
                node.meta.pop(key, None)
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """What exporters say on the way is for those who write them."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first cause, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)
