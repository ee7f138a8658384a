"""Take pruned channels out of a model by prunekit, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable

import torch_pruning  # noqa: F401 - what prunekit needs for it: missing is told before the run
from torch import nn

from prunekit import PrunekitError, without_closed
from prunekit_rni.free import FreeLayer


class RemovalError(Exception):
    """Why the channels cannot be removed."""


def without_closed_channels(
    model: nn.Module, layers: Iterable[FreeLayer], input_shape: tuple[int, ...]
) -> nn.Module:
    """The model without the channels whose BatchNorm gives zeros; `model` stays as it is.

    Args:
        model: its BatchNorms are plain ones.
        layers: where to look for closed channels: those with scale and shift 0.
        input_shape: [C, H, W].

    Raises:
        RemovalError: some cannot go, or the logits would differ.
    """
    closed = {}
    for layer in layers:
        norm = model.get_submodule(layer.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        closed[f"{layer.conv}.weight"] = ((norm.weight == 0) & (norm.bias == 0)).nonzero().flatten()
    try:
        found = without_closed(model, closed, input_shape)
    except PrunekitError as error:
        raise RemovalError(str(error)) from error
    for reason in found.stayed.values():
        raise RemovalError(reason)
    return found.model
