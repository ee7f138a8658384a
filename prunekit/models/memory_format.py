"""How images lie in memory: channel by channel, or, as kernels for convolutions like it, pixel by
pixel (`torch.channels_last`).

Only images are laid out anew: convolutions, norms and pools go on as their input lies. Parameters
stay as they were made, so masks, digests and files know nothing of it; a convolution lays out its
weight for itself, which is small beside what it computes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.modules import copy_on
from prunekit.foundation.warn import LOG
from prunekit.models.dry_pass import blank, unseen

EITHER_ORDER = ("cpu", "mps")
"""Devices that run as before unless a recipe says otherwise: on a CPU, runs that were begun go on
bit for bit; Apple's kernels have an order of their own."""


class LayoutSettings(Protocol):
    """What a recipe says of it."""

    @property
    def channels_last(self) -> bool | None:
        """Whether it is wanted; None: where it is of use."""

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""


def laid_out(images: Tensor) -> Tensor:
    """A copy of images [B, C, H, W] with channels last, also of one channel.

    `contiguous` and `to` would leave the strides of one channel as they are, from which a
    convolution takes it that channels are first.
    """
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def lies_channels_last(
    settings: LayoutSettings, model: nn.Module, input_shape: Sequence[int], device: torch.device
) -> bool:
    """Whether a model is to be given its images so.

    Unless the recipe says, on a GPU, in bf16 or fp16, where a model has more than one convolution
    (a vision transformer has the one that cuts patches) and takes them.

    Args:
        settings: the recipe.
        model: with its compressors.
        input_shape: [C, H, W].
        device: where it computes.

    Raises:
        RecipeError: the recipe wants it, and the model does not take it.
    """
    wanted = settings.channels_last
    if wanted is None:
        of_use = device.type not in EITHER_ORDER and settings.precision != "fp32"
        if not of_use or sum(isinstance(one, nn.Conv2d) for one in model.modules()) < 2:
            return False
    elif not wanted:
        return False
    if not (reason := _refusal(model, input_shape)):
        return True
    if wanted:
        raise RecipeError(
            f"channels_last: the model does not take it ({reason}): set it to false, or use "
            "reshape and flatten in place of view in the model"
        )
    LOG.warning("channels_last is left out, as the model does not take it: %s", reason)
    return False


def _refusal(model: nn.Module, input_shape: Sequence[int]) -> str:
    """Why a copy on the CPU takes no images that lie so; nothing where it does.

    On the meta device convolutions do not go on as their input lies.
    """
    try:
        with unseen(), torch.compiler.set_stance("force_eager"):
            own = copy_on(model, "cpu").eval()
            own(laid_out(blank(own, input_shape, 2)))
    except torch.AcceleratorError:
        raise
    except Exception as error:  # whatever a model does
        return textwrap.shorten(" ".join(f"{type(error).__name__}: {error}".split()), 200)
    return ""
