"""Which inputs of layers are zero whatever the image and the weights that are kept.

Tried: zeros among the parameters stay, all else gets other values, and what comes into each layer
is looked at. Where all that is added up is positive nothing cancels and no ReLU is closed, so no
zero is there by chance; values of both signs follow, for what subtracts or saturates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.foundation.modules import copy_on, one_forward

SIGNED = (False, False, True, True, True, True)
"""Of each draw: whether its values have both signs."""
MEAN, VARIANCE = "running_mean", "running_var"


def zero_inputs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Tensor]:
    """The inputs of convolutions and linear layers that only zeros come into.

    Args:
        model: it is not changed.
        input_shape: [C, H, W].

    Returns:
        Path of a layer -> bool [inputs], True where nothing but zeros comes in. A layer whose
        module is not called has no entry.
    """
    own = copy_on(model, "cpu").double()
    moved: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_look, moved, path))
        for path, module in own.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    generator = torch.Generator().manual_seed(0)
    for signed in SIGNED:
        with one_forward(own):
            _draw(own, generator, signed)
            images = torch.rand(1, *input_shape, generator=generator, dtype=torch.float64)
            own(2 * images - 1 if signed else images)
    for hook in hooks:
        hook.remove()
    return {path: ~some for path, some in moved.items()}


def _look(moved: dict[str, Tensor], path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    x: Tensor = args[0]
    axis = x.dim() - 1 if isinstance(module, nn.Linear) else 1
    some = (x != 0).transpose(0, axis).flatten(1).any(1)  # NaN is not zero
    moved[path] = moved[path] | some if path in moved else some


def _draw(model: nn.Module, generator: torch.Generator, signed: bool) -> None:
    """Values that keep the size of what passes through; zeros stay."""
    statistics = [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in (MEAN, VARIANCE)
    ]
    for name, tensor in itertools.chain(model.named_parameters(), statistics):
        if not tensor.is_floating_point():
            continue
        values = torch.empty(tensor.shape, dtype=tensor.dtype)
        values.uniform_(0.5, 1.5, generator=generator)
        if tensor.dim() > 1 and len(tensor) > 1:
            inputs = max(1, tensor.numel() // len(tensor))
            if signed:
                values.sub_(1).mul_(2 * (3 / inputs) ** 0.5)
            else:
                values.div_(inputs)
        elif name.rpartition(".")[2] == MEAN and not signed:
            values.neg_()
        tensor.data.copy_(values.masked_fill_(tensor.data == 0, 0))
