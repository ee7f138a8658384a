"""Training and evaluation mode of modules, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
