"""Take pruned channels out of a model, and prove that its logits stay."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch_pruning
from torch import Tensor, nn

from prunekit_rni.free import FreeLayer

IMAGES = 8
"""Random inputs that the two models are compared on."""
TOLERANCE = 1e-9
"""Largest difference of two logits, over the largest logit. In float64 sums in another order differ
by some 1e-14; a channel that should have stayed, or left something behind, by far more."""


class RemovalError(Exception):
    """Why the channels cannot be removed."""


def without_closed_channels(
    model: nn.Module, layers: Iterable[FreeLayer], input_shape: tuple[int, ...]
) -> nn.Module:
    """A copy of `model` without the channels whose BatchNorm gives zeros; `model` stays as it is.

    Torch-Pruning's dependency graph finds what goes with a channel: the entries of the BatchNorm
    and the inputs of the layers that read it.

    Args:
        model: its BatchNorms are plain ones.
        layers: where to look for closed channels: those with scale and shift 0.
        input_shape: [C, H, W].

    Raises:
        RemovalError: the graph cannot be built or cut, or the logits differ.
    """
    small = copy.deepcopy(model)
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        _remove(small, layers, input_shape)
        difference = _difference(model, small, input_shape)
    except Exception as error:  # of a foreign library, on any model
        raise RemovalError(f"{type(error).__name__}: {error}") from error
    if not difference <= TOLERANCE:
        raise RemovalError(
            f"without them the logits differ by {difference:.2g} of the largest, in float64, where "
            f"at most {TOLERANCE:g} is rounding"
        )
    for name, module in small.named_modules():
        module.training = modes[name]
    return small


def _remove(small: nn.Module, layers: Iterable[FreeLayer], input_shape: tuple[int, ...]) -> None:
    learning = {name: parameter.requires_grad for name, parameter in small.named_parameters()}
    like = next(small.parameters())
    with torch.enable_grad():
        example = torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype)
        graph = torch_pruning.DependencyGraph().build_dependency(small.eval(), example)
    for layer in layers:
        conv, norm = small.get_submodule(layer.conv), small.get_submodule(layer.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        closed = ((norm.weight == 0) & (norm.bias == 0)).nonzero().flatten().tolist()
        if closed:
            cut = torch_pruning.prune_conv_out_channels
            graph.get_pruning_group(conv, cut, idxs=closed).prune()
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(learning[name]).grad = None


@torch.no_grad()
def _difference(model: nn.Module, small: nn.Module, input_shape: tuple[int, ...]) -> float:
    """The largest difference of the logits over the largest logit, in float64, in evaluation."""
    device = next(model.parameters()).device
    noise = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *input_shape, generator=noise, dtype=torch.float64).to(device)
    before, after = (_logits(each, images) for each in (model, small))
    return float((before - after).abs().max() / before.abs().max().clamp_min(1e-30))


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = copy.deepcopy(model).double().eval()(images)
    return logits
