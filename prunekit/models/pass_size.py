"""How much memory a training pass takes at least, found without taking any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from prunekit.foundation.modules import copy_on, plain_attention
from prunekit.models.dry_pass import blank, unseen, unwatched


def least_entries(model: nn.Module, input_shape: Sequence[int], samples: int) -> int:
    """Numbers that a training pass holds at once, at the least: a whole number, however large.

    The larger of two that are held without a doubt: the inputs of all linear layers and
    convolutions that learn, which wait for the backward pass, and the largest result of one
    operation. What else is held is not counted, so that nothing is refused which could have run.

    Args:
        model: it is not changed; on any device.
        input_shape: [C, H, W].
        samples: images of the pass.

    Returns:
        0 where nothing is known: of a model that does not run without values.
    """
    learning = [path for path, module in model.named_modules() if _learns(module)]
    try:
        own = unwatched(copy_on(model, "meta")).train()
        kept = _Kept()
        for path in learning:
            own.get_submodule(path).register_forward_pre_hook(kept.note)
        watched = torch.autograd.graph.saved_tensors_hooks(kept.hold, lambda x: x)
        with unseen(), torch.enable_grad(), watched, plain_attention(), (largest := _Largest()):
            own(blank(own, input_shape, samples))
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except Exception:  # it is told by whoever runs it in earnest
        return 0
    return max(kept.entries(), largest.entries)


def _learns(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) and module.weight.requires_grad


def _room(x: Tensor) -> int:
    """Numbers in the memory that a tensor, or what it is a view of, has for itself."""
    return x.untyped_storage().nbytes() // x.element_size()


class _Kept:
    """Inputs of layers that the graph of the pass holds, what several are views of once."""

    def __init__(self) -> None:
        self._inputs: dict[int, Tensor] = {}
        self._held = False

    def note(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        for x in given if self._holds() else ():
            if isinstance(x, Tensor):  # held, so that no other takes its number
                self._inputs[x.untyped_storage()._cdata] = x

    def hold(self, x: Tensor) -> Tensor:
        self._held = True
        return x

    def _holds(self) -> bool:
        """Not without gradients, nor in a checkpoint, which holds in its own way and computes anew
        what is in it: tried by an operation that has something to hold."""
        self._held = False
        torch.ones((), requires_grad=True).exp()
        return self._held

    def entries(self) -> int:
        return sum(map(_room, self._inputs.values()))


class _Largest(TorchFunctionMode):
    """The largest result of an operation; a view takes nothing of its own."""

    entries = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if type(x) is Tensor and x.is_meta and x.is_floating_point():
                self.entries = max(self.entries, _room(x))
        return found
