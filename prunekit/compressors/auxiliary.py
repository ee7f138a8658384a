"""The terms that compressors add to the loss of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor
from prunekit.errors import PluginError


def with_a_loss(model: nn.Module) -> dict[str, DataCompressor]:
    """The compressors of a model that add a term to its loss, by label.

    A label is the compressor's name; where several have it, `name#place`, by where it stands:
    `learned#blocks.1`.
    """
    held = {
        path.removesuffix(".compressor"): module
        for path, module in model.named_modules()
        if isinstance(module, DataCompressor) and type(module).adds_loss
    }
    names = [one.config.name for one in held.values()]
    return {
        one.config.name if names.count(one.config.name) == 1 else f"{one.config.name}#{path}": one
        for path, one in held.items()
    }


def auxiliary_losses(model: nn.Module) -> dict[str, Tensor]:
    """What the compressors of a model add to the loss of the batch that has just passed.

    A trainer adds them up and to its loss, once for each forward pass in training; that of prunekit
    does. They are taken: called again before the next pass, it gives none.

    Args:
        model: on any device, compiled and wrapped or not.

    Returns:
        Label -> scalar, each a mean over the samples; empty in evaluation, and where no compressor
        has a term.

    Raises:
        PluginError: a term is no scalar, or learns nothing; whose it is and what came.
    """
    taken = {label: taken_of(one) for label, one in with_a_loss(model).items()}
    return {label: term for label, term in taken.items() if term is not None}


def taken_of(compressor: DataCompressor) -> Tensor | None:
    """The checked term of one compressor.

    Raises:
        PluginError: see `auxiliary_losses`.
    """
    term = compressor.take_loss()
    if term is None:
        return None
    who = who_is(compressor)
    if not isinstance(term, Tensor):
        raise PluginError(f"{who}: add_loss was given a {type(term).__name__}, not a tensor")
    if term.ndim or not term.is_floating_point():
        dtype = str(term.dtype).removeprefix("torch.")
        raise PluginError(
            f"{who}: add_loss was given {dtype} {list(term.shape)}, where one number is wanted: "
            "the mean over the batch"
        )
    if torch.is_grad_enabled() and not term.requires_grad:
        raise PluginError(
            f"{who}: its loss depends on nothing that learns, or was formed where no gradients are "
            "kept, as in a checkpoint of torch with use_reentrant=True: set that to False"
        )
    return term.float()


def who_is(compressor: DataCompressor) -> str:
    """A compressor with its class, for a message."""
    cls = type(compressor)
    return f"compressor {compressor.config.name!r} ({cls.__module__}.{cls.__qualname__})"
