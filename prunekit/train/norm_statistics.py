"""The running statistics of BatchNorm, computed anew for weights that pruning has changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.errors import RecipeError
from prunekit.foundation.modules import evaluating


def counting_norms(model: nn.Module) -> list[_BatchNorm]:
    """Those that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def check_norms(model: nn.Module, samples: int | None, train_size: int) -> None:
    """See that there are statistics to compute, and samples for it.

    Raises:
        RecipeError: there are not.
    """
    if samples is None:
        return
    if not counting_norms(model):
        raise RecipeError(
            "batchnorm_samples: the model has no BatchNorm with running statistics: leave it out"
        )
    if samples > train_size:
        raise RecipeError(
            f"batchnorm_samples: {samples}, where the data has {train_size} training samples: ask "
            "for fewer"
        )


@torch.no_grad()
def renew_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running mean and variance by the means of those of the batches.

    Each layer sees what the layers before it give with their own batch statistics, as in training;
    all else is in evaluation mode, so that dropout is off.

    Args:
        model: the plain module, on its device.
        batches: inputs; a batch of one sample a channel has no variance.
    """
    norms = counting_norms(model)
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the plain mean over the batches
        try:
            for images in batches:
                model(images)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
