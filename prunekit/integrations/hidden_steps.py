"""Pruning in a script whose `optimizer.step` is out of reach, as that of timm's `train.py`."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from prunekit.integrations.driving import other_processes
from prunekit.pruning.pruner import Pruner


def follow_steps(pruner: Pruner, optimizer: Optimizer) -> None:
    """Let a pruner follow an optimizer: each of its steps is one of the clock.

    Stands for `attach`, `before_step` and `after_step`. Gradients are read where the optimizer
    steps, so after clipping, whose norm counts those of pruned weights too; a step that a
    GradScaler leaves out is not counted. Everything else is as in a plain loop.

    Args:
        pruner: of the model that the optimizer trains.
        optimizer: a torch optimizer, the only one of the model.

    Raises:
        UsageError: a pruned parameter that learns is not in it.
    """

    def before(*_: Any) -> None:
        pruner.before_step()

    def after(*_: Any) -> None:
        pruner.after_step()

    # in this order: hooks run as they came, and the weights move between those of the pruner
    optimizer.register_step_pre_hook(before)
    pruner.attach(optimizer)
    optimizer.register_step_post_hook(after)


__all__ = ["follow_steps", "other_processes"]
