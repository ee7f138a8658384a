"""Start weights from a run or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from torch import nn

from prunekit.foundation.values import RunPath

PRETRAINED = "pretrained"
"""The `init` that asks for the weights a stock model was published with."""


def _not_pretrained(init: str | None) -> str | None:
    if init == PRETRAINED:
        raise ValueError(
            "this model has no stock weights: give a run directory or a .safetensors file, or use "
            "a torchvision: or timm: model"
        )
    return init


OwnInit = Annotated[RunPath | None, AfterValidator(_not_pretrained)]
"""`init` of a model that no one has published weights for."""


def load_initial(model: nn.Module, init: str) -> None:
    """Load start weights into a model: all of them, or none.

    Args:
        model: the module; its names and shapes must be those of the file.
        init: a `.safetensors` file, a run directory, or `runs/<recipe>/latest`.

    Raises:
        CheckpointError: missing, unreadable, cut short, or of another model; the model is as it
            was.
    """
    from prunekit.foundation.modules import copy_into
    from prunekit.runs.directory import open_run
    from prunekit.runs.tensors import read_tensors

    if init.endswith(".safetensors"):
        weights, _ = read_tensors(Path(init))
    else:
        weights = open_run(init).final_weights()
    copy_into(model, weights, f"model.init: {init}")
