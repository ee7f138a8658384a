"""What each connection of a layer carries: its mean absolute contribution to its unit.

The terms of unit i add up to its pre-activation, so what is cut moves it by at most the sum of the
terms cut: mean_n |z_i - z~_i| <= sum of the pruned q_ij. arXiv 2109.10795, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit_nnrelief.wide import wide

Reduction = Literal["fro", "sum"]
"""How a map over output positions becomes a number: its Frobenius norm or its sum."""


def connection_mass(
    layer: nn.Linear | nn.Conv2d, activity: Tensor, reduction: Reduction = "fro"
) -> Tensor:
    """The mass q of every connection, the bias last; zeros where there is none.

    Args:
        layer: its weights as they are in force.
        activity: mean over samples of its absolute input, [in] or [in, H, W].
        reduction: of a convolution's maps.

    Returns:
        float64 [out, in / groups + 1].
    """
    weight = wide(layer.weight.detach()).abs()
    activity = wide(activity)
    if isinstance(layer, nn.Conv2d):
        mass, bias_mass = _kernels(layer, weight, activity, reduction)
    else:
        mass, bias_mass = weight * activity, 1.0
    bias = torch.zeros_like(mass[:, 0]) if layer.bias is None else layer.bias.detach().abs()
    return torch.cat([mass, bias_mass * wide(bias)[:, None]], dim=1)


def _kernels(
    conv: nn.Conv2d, weight: Tensor, activity: Tensor, reduction: Reduction
) -> tuple[Tensor, float]:
    """[out, in / groups], and the mass of a bias of 1.

    The map of kernel (k, c), the mean over samples of the windows' sums of |x_c| |K_kc|, is the
    convolution of mean |x_c| with |K_kc|; all kernels are one grouped convolution.
    """
    outputs, inputs = weight.shape[:2]
    maps = F.conv2d(
        activity[_channels(conv)].flatten(0, 1),
        weight.flatten(0, 1).unsqueeze(1),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=outputs * inputs,
    ).view(outputs, inputs, -1)
    positions = maps.shape[-1]
    if reduction == "sum":
        return maps.sum(-1), float(positions)
    return torch.linalg.vector_norm(maps, dim=-1), positions**0.5


def _channels(conv: nn.Conv2d) -> Tensor:
    """The input channel of each kernel, [out, in / groups]."""
    of_group = torch.arange(conv.in_channels).view(conv.groups, -1)
    return of_group.repeat_interleave(conv.out_channels // conv.groups, dim=0)


def channel_norms(activity: Tensor) -> Tensor:
    """Frobenius norm of each channel's map, [C, ...] -> [C]."""
    norms: Tensor = torch.linalg.vector_norm(activity.reshape(len(activity), -1), dim=1)
    return norms
