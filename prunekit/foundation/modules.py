"""Modules: their modes and buffers for a while, copies of them, their tensors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Passes inside may write what buffers they like: after it, each holds what it held."""
    held = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            if name in held:
                buffer.copy_(held[name])


def copy_on(model: nn.Module, device: str) -> nn.Module:
    """A copy on `device` that is made there: the original's memory is not doubled for it."""
    memo: dict[int, Any] = {id(b): b.detach().to(device, copy=True) for b in model.buffers()}
    for parameter in model.parameters():
        values = parameter.detach().to(device, copy=True)
        memo[id(parameter)] = nn.Parameter(values, requires_grad=False)
    return copy.deepcopy(model, memo)


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
