"""What a model is first called with."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor that a model was called with, without its fractions."""

    size: tuple[int, ...]
    dtype: torch.dtype | None
    """None: that of the model, whatever it is by then."""
    device: torch.device | None
    """None: where the model is by then."""
    values: Tensor | None
    """Whole numbers and truths are kept: they may be indices or lengths."""


class FirstInput:
    """Remembers what a model is first called with, as shapes, and then takes its hook away.

    A model that is compiled before it was called once is not listened to.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen: tuple[Any, Any] | None = None
        self._first: Any = None
        self._hook = model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """The hook."""
        if torch.compiler.is_compiling():
            return
        like = next(model.parameters(), torch.zeros(()))
        self._seen = tree_map(lambda value: _without_values(value, like), (args, kwargs))
        by_name = self._seen[1].get(next(iter(inspect.signature(model.forward).parameters), ""))
        self._first = next(iter(self._seen[0]), by_name)
        self.forget_hook()

    def forget_hook(self) -> None:
        """Stop listening."""
        self._hook.remove()

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one input, without the batch, where the first argument is a batch of floats.

        It may be given by its name, as the Trainer of Transformers does.
        """
        first = self._first
        if not isinstance(first, _Seen) or first.values is not None:
            return None
        return first.size[1:] if len(first.size) > 1 else None

    def again(self, model: nn.Module) -> tuple[Any, Any] | None:
        """Arguments of the same shapes, zeros, for a model that may be elsewhere by now.

        Returns:
            (args, kwargs); None where the model was not called.
        """
        if self._seen is None:
            return None
        like = next(model.parameters(), torch.zeros(()))
        made: tuple[Any, Any] = tree_map(lambda value: _with_zeros(value, like), self._seen)
        return made


def _without_values(value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _Seen(
        size=tuple(value.shape),
        dtype=None if value.dtype == like.dtype else value.dtype,
        device=None if value.device == like.device else value.device,
        values=None if value.is_floating_point() else value.detach().clone(),
    )


def _with_zeros(value: Any, like: Tensor) -> Any:
    if not isinstance(value, _Seen):
        return value
    place = value.device or like.device
    if value.values is not None:
        return value.values.to(place)
    return torch.zeros(value.size, dtype=value.dtype or like.dtype, device=place)
