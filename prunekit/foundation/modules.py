"""Modules looked at from outside: their modes, tensors, and what they are called with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from prunekit.errors import CheckpointError


@contextmanager
def training_mode_kept(model: nn.Module) -> Iterator[None]:
    """Switch modules to eval inside as you like: after it, each is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: dropout is off, so no random number is drawn."""
    with training_mode_kept(model):
        model.eval()
        yield


@contextmanager
def one_forward(model: nn.Module) -> Iterator[None]:
    """Evaluate inside without a trace: no gradients, draws, changed buffers, compiled code.

    nn.MultiheadAttention is kept off its fused path, whose products nothing can see.
    """
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with (
            evaluating(model),
            torch.no_grad(),
            plain_attention(),
            torch.random.fork_rng(devices=list(devices)),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for buffer, before in saved:
            if not torch.equal(buffer, before):  # NaN is written back each time: no harm
                with torch.no_grad():
                    buffer.copy_(before)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention off its fused inference path, whose products are not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a `state_dict` holds."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once, under their first name) and saved buffers."""
    return {name: p.detach() for name, p in model.named_parameters()} | buffers(model)


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Compare the names and shapes of `weights` with those of the module.

    Args:
        model: the module.
        weights: a value for each tensor of the module, and no others; a tied parameter may stand
            under several of its names.
        source: where they come from, for the message.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = tensors(model)
    known = own.keys() | {name for name, _ in model.named_parameters(remove_duplicate=False)}
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not in this model" for name in weights if name not in known]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, here {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"{source} holds another model: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + ": use the same model and data keys"
        )


@torch.no_grad()
def copy_into(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Write `weights` into the module, all or nothing; see `check_fit`.

    Raises:
        CheckpointError: names or shapes differ; nothing is written.
    """
    check_fit(model, weights, source)
    for name, tensor in tensors(model).items():
        tensor.copy_(weights[name])


def weights_digest(model: nn.Module) -> bytes:
    """SHA-256 of all tensors: equal on ranks that start from the same model."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors(model).items()):
        sha.update(name.encode())
        sha.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.digest()


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
        self._hook = model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """The hook."""
        if torch.compiler.is_compiling():
            return
        like = next(model.parameters(), torch.zeros(()))
        self._seen = tree_map(lambda value: _without_values(value, like), (args, kwargs))
        self.forget_hook()

    def forget_hook(self) -> None:
        """Stop listening."""
        self._hook.remove()

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
