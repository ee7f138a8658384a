"""What a `Pruner` is made of, told where it is of another kind, before it fails deep inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel
from torch import nn

from prunekit.errors import UsageError
from prunekit.foundation.timeline import Duration, Timeline
from prunekit.foundation.warn import LOG
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


def refuse_windows(strategies: Sequence[PruningStrategy], timeline: Timeline) -> None:
    """Refuse a strategy that works during a phase which the loop does not have.

    Raises:
        UsageError: names the strategy, the phase, and those that there are.
    """
    phases = dict.fromkeys(span.phase for span in timeline.spans)
    for strategy in strategies:
        for phase in strategy.config.during:
            if phase not in phases:
                raise UsageError(
                    f"{strategy.config.name}: during: there is no phase {phase!r}: the phases of "
                    f"this loop are {', '.join(phases)} (give a Pruner several by timeline=)"
                )


def warn_of_epochs(strategies: Sequence[PruningStrategy]) -> None:
    """Tell of strategies that count in epochs where no one said how long one is."""
    for strategy in strategies:
        if found := next((d for d in _durations(strategy.config) if d.unit == "ep"), None):
            LOG.warning(
                f"{strategy.config.name}: {found} counts an epoch as one step: give the Pruner "
                "steps_per_epoch"
            )


def _durations(value: object) -> Iterator[Duration]:
    if isinstance(value, Duration):
        yield value
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from _durations(getattr(value, key))
    elif isinstance(value, tuple):
        for item in value:
            yield from _durations(item)


def _refuse_items(name: str, items: object, kind: type, example: str) -> None:
    if isinstance(items, kind | str | type) or not isinstance(items, Sequence):
        raise UsageError(f"{name}: give a list, as [{example}]")
    for place, item in enumerate(items):
        if not isinstance(item, kind):
            what = repr(item) if isinstance(item, str) else type(item).__name__
            raise UsageError(f"{name}: number {place} is {what}: make one, as {example}")
