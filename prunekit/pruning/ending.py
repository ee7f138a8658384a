"""The end of a loop of somebody else's: what must hold, and what a step after it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from prunekit.errors import UsageError
from prunekit.pruning.engine import Engine
from prunekit.pruning.sparsity import masks_left
from prunekit.pruning.watch import Refused, ZerosKept, unwatch, watch
from prunekit.pruning.writes import written_by_others

MASKS_CAME_OFF = (
    "optimizer.step: finish took the masks off, so this step would bring pruned weights back: "
    "train before finish, or say finish(keep_masks=True) to train on with the zeros kept, "
    "finish(keep_masks=False) to train on without masks"
)


def refuse_short(engine: Engine, warn: Callable[[str], None]) -> None:
    """Each strategy must have come to the sparsity that it has at the end.

    Raises:
        UsageError: one has not, and steps are left, or it was never asked.
    """
    total = engine.timeline.total_steps
    for assigned in engine.assigned:
        strategy, now = assigned.strategy, assigned.target or 0.0
        end = strategy.target(engine.timeline.clock(total, strategy.config.during))
        where = f"finish: at step {engine.step} of {total} {assigned.label}"
        if any(name in engine.mask_set.soft for name in assigned.cover):
            raise UsageError(
                f"{where} has soft masks, which are bool at the end: train on, give the Pruner the "
                "total_steps that you train, or say finish(early=True) to keep W times its mask"
            )
        if end is None:
            if engine.step < total:
                warn(f"{where} might have changed its masks until the end")
        elif now != end and (engine.step < total or not now):
            raise UsageError(
                f"{where} has sparsity {now:.4g}, and {end:.4g} comes at the end: train on, "
                "give the Pruner the total_steps that you train, or say finish(early=True)"
            )
        elif now != end:
            warn(f"{where} has sparsity {now:.4g}, not {end:.4g}: its last update was not taken")


def write_zeros(engine: Engine, warn: Callable[[str], None]) -> None:
    """What is pruned is zero, whoever wrote there."""
    engine.mask_set.follow()
    for name, count in engine.mask_set.zero_pruned().items():
        warn(f"finish: {written_by_others(name, count)}")


def guard(model: nn.Module, masks: Mapping[str, Tensor], keep: bool | None) -> None:
    """Say what an optimizer that steps the finished model does to its zeros.

    Args:
        model: the finished model.
        masks: those that it was trained with.
        keep: True puts the zeros back after each step, None refuses it, False lets it be.
    """
    params = dict(model.named_parameters(remove_duplicate=False))
    left = {params[name]: mask for name, mask in masks_left(model, masks).items()}
    pruned = {param: mask for param, mask in left.items() if not bool(mask.all())}
    unwatch(pruned)
    if keep:
        zeros = ZerosKept(pruned)
        for param in pruned:  # they may have come off before
            zeros.after(param)
        watch(pruned, zeros)
    elif keep is None:
        watch(pruned, Refused(MASKS_CAME_OFF))
