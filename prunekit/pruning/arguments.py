"""What a `Pruner` is made of, told where it is of another kind, before it fails deep inside."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prunekit.errors import UsageError
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import PruningStrategy


def refuse_arguments(
    model: object,
    strategies: object,
    probes: object,
    total_steps: object,
    steps_per_epoch: object,
) -> None:
    """Refuse arguments of another kind.

    Raises:
        UsageError: names the argument, and what it must be.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model: {type(model).__name__} is no torch.nn.Module")
    _refuse_items("strategies", strategies, PruningStrategy, 'strategy("magnitude", sparsity=0.9)')
    _refuse_items("probes", probes, Probe, 'probe("gradient_norm")')
    for name, number, least in (
        ("total_steps", total_steps, 0),
        ("steps_per_epoch", steps_per_epoch, 1),
    ):
        if number is not None and (not isinstance(number, int) or number < least):
            raise UsageError(f"{name} must be a whole number, at least {least}, not {number!r}")


def _refuse_items(name: str, items: object, kind: type, example: str) -> None:
    if isinstance(items, kind | str | type) or not isinstance(items, Sequence):
        raise UsageError(f"{name}: give a list, as [{example}]")
    for place, item in enumerate(items):
        if not isinstance(item, kind):
            what = repr(item) if isinstance(item, str) else type(item).__name__
            raise UsageError(f"{name}: number {place} is {what}: make one, as {example}")
