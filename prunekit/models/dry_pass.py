"""A forward pass on a copy of a model, without data and where it can be without values.

What a model does with its input is read off such a pass, not off attributes that it may have: they
are called differently in every library, and are wrong as soon as the model is used otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.modules import copy_on

Found = TypeVar("Found")


def on_a_copy(model: nn.Module, look: Callable[[nn.Module], Found]) -> Found:
    """What `look` finds on a copy of `model` on the meta device, else on one on the CPU.

    The second is for what a third-party module does with values that meta does not have.

    Args:
        model: it is not changed; on any device.
        look: may change the copy.

    Raises:
        Exception: whatever `look` raises on the CPU; a RecipeError from the first on.
    """
    try:
        return look(copy_on(model, "meta"))
    except (RecipeError, torch.AcceleratorError):
        raise
    except Exception:
        return look(copy_on(model, "cpu"))


def unwatched(model: nn.Module) -> nn.Module:
    """Take from a copy the hooks that are plain functions: they tell their caller of each pass.

    Those of `weight_norm`, `prune` and their kin are objects, and belong to what is computed.
    """
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, FunctionType)]:
                del hooks[key]
    return model


@contextmanager
def unseen() -> Iterator[None]:
    """No gradients, no random number of the global generator, nothing but the CPU by default."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        yield


def blank(model: nn.Module, input_shape: Sequence[int], samples: int) -> Tensor:
    """Images of zeros [samples, C, H, W], of the dtype and on the device of the model."""
    like = next(iter(model.parameters()), torch.zeros(()))
    return torch.zeros(samples, *input_shape, dtype=like.dtype, device=like.device)
