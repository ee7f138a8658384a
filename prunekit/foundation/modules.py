"""Modules looked at from outside: their modes, tensors, copies, and what they are called with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import CheckpointError
from prunekit.foundation.devices import random_states_kept
from prunekit.foundation.suggestions import did_you_mean

MOST_COMPARED = 200
"""Names that are compared letter by letter for a suggestion."""


@contextmanager
def training_mode_kept(model: nn.Module) -> Iterator[None]:
    """Switch modules to eval inside as you like: after it, each is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:  # to set it takes many times as long as to look
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


def move_to(model: nn.Module, device: torch.device) -> None:
    """`model.to(device)`, after which each parameter is still the same object.

    Masks and optimizers hold those objects. torch makes new ones where a backend's tensors are laid
    out otherwise (those of PrivateUse1), or where `torch.__future__` says so; to swap what is in
    them keeps them.
    """
    future = torch.__future__
    trial = nn.Linear(1, 1, bias=False)
    parameter = trial.weight
    if trial.to(device).weight is parameter:
        model.to(device)
        return
    before = future.get_swap_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(True)
    try:
        model.to(device)
    finally:
        future.set_swap_module_params_on_conversion(before)


def copy_on(model: nn.Module, device: str) -> nn.Module:
    """A copy on `device` that is made there: the original's memory is not doubled for it."""
    memo: dict[int, Any] = {id(b): b.detach().to(device, copy=True) for b in model.buffers()}
    for parameter in model.parameters():
        values = parameter.detach().to(device, copy=True)
        memo[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for module in model.modules():  # what a hook has computed: it cannot be copied with its graph
        held = [value for value in vars(module).values() if isinstance(value, Tensor)]
        memo |= {id(tensor): tensor.detach().to(device, copy=True) for tensor in held}
    return copy.deepcopy(model, memo)


def computing_with(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy that computes with other tensors, by name, and shares all that is not among them.

    `torch.func.functional_call` would leave a model broken in which a module stands in two places.
    """
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    for module in model.modules():  # what a hook has computed: it cannot be copied with its graph
        memo |= {id(v): v.detach() for v in vars(module).values() if isinstance(v, Tensor)}
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    memo |= {id(named[name]): value for name, value in values.items()}
    return copy.deepcopy(model, memo)


def called_with(model: nn.Module, x: Any) -> Any:
    """What a model gives for the inputs of a batch: one, several in a row, or some by name.

    So a mapping, as a tokenizer gives it, is passed as keywords, and a tuple or list one by one.
    """
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


@contextmanager
def one_forward(model: nn.Module) -> Iterator[None]:
    """Evaluate inside without a trace: no gradients, draws, changed buffers, compiled code.

    nn.MultiheadAttention is kept off its fused path, whose products nothing can see.
    """
    with (
        evaluating(model),
        torch.no_grad(),
        buffers_kept(model),
        plain_attention(),
        random_states_kept(p.device for p in model.parameters()),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


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
    there = {name: tensor.shape for name, tensor in weights.items()}
    here = {name: tensor.shape for name, tensor in own.items()}
    if reason := misfit(there, here, known):
        raise CheckpointError(f"{source} {reason}")


def misfit(
    there: Mapping[str, torch.Size], here: Mapping[str, torch.Size], known: Collection[str]
) -> str:
    """Why tensors of these shapes do not fit a model, with counts and the first name of each kind.

    Args:
        there: name -> shape of what is given.
        here: name -> shape of what the model needs.
        known: more names that the model has, as tied parameters do.

    Returns:
        "holds another model: ..", or nothing where all fits.
    """
    missing = [name for name in here if name not in there]
    unknown = [name for name in there if name not in known]
    reshaped = [name for name in here if name in there and there[name] != here[name]]
    alike = [name for name in unknown if missing and there[name] == here[missing[0]]]
    parts = []
    if missing:
        meant = did_you_mean(missing[0], alike[:MOST_COMPARED]).strip()
        parts.append(
            f"{missing[0]} is missing"
            + (f" ({meant[0].lower()}{meant[1:]})" if meant else "")
            + _and_more(missing, f" of its {len(here)} tensors")
        )
    if unknown:
        parts.append(f"{unknown[0]} is not in this model" + _and_more(unknown))
    if reshaped:
        name = reshaped[0]
        parts.append(
            f"{name} has shape {tuple(there[name])}, here {tuple(here[name])}" + _and_more(reshaped)
        )
    if not parts:
        return ""
    return f"holds another model: {'; '.join(parts)}: use the same model and data keys"


def _and_more(names: Sequence[str], of: str = "") -> str:
    return f" (and {len(names) - 1} more{of})" if len(names) > 1 else ""


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
