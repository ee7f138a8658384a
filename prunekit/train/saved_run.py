"""What a checkpoint holds of a run beside its weights: of a known shape, or refused in one line.

Its digest says that nobody changed it since, not that it is of this run: a folder from anywhere may
hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunekit.errors import CheckpointError, PrunekitError, UsageError
from prunekit.registry.foreign import reason
from prunekit.runs.checkpoint import Checkpoint
from prunekit.runs.documents import FirstStateDocument, StateDocument, checked
from prunekit.train.torch_errors import in_plain_words

BEFORE_IT = "remove it to go on from the one before"
IN_GROUPS = ("lr", "initial_lr", "weight_decay", "betas", "eps", "momentum", "nesterov")
"""What steps read of a group of parameters."""
MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), torch.optim.SGD: ()}
"""Optimizers of ours -> what they read of a parameter once they know it."""


def saved_of(path: Path, checkpoint: Checkpoint, total: int) -> dict[str, Any]:
    """The state of a checkpoint, whose parts have their types.

    Args:
        path: of the checkpoint, for messages.
        checkpoint: what was read from it.
        total: optimizer steps of the run.

    Raises:
        CheckpointError: a part is missing or of another type, or it is of another step.
    """
    shape = StateDocument if checkpoint.step else FirstStateDocument
    saved = checked(path, checkpoint.state, shape)
    step = saved["pruner"].get("step") if checkpoint.step else 0
    if step != checkpoint.step or checkpoint.step > total:
        raise CheckpointError(
            f"{path}: corrupt: its state is of step {str(step)[:20]}, in a run of {total}: "
            f"{BEFORE_IT}"
        )
    return saved


@contextmanager
def taken_back(path: Path) -> Iterator[None]:
    """A block in which the parts of a run take back what they saved.

    Raises:
        CheckpointError: one of them cannot.
    """
    try:
        yield
    except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
        raise
    except Exception as error:  # whatever a part does with a state of another shape
        if isinstance(error, PrunekitError) and not isinstance(error, UsageError):
            raise
        if in_plain_words(error):
            raise
        what = str(error) if isinstance(error, UsageError) else reason(error)
        raise CheckpointError(f"{path}: does not fit the run: {what}; {BEFORE_IT}") from error


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer what it saved; what its steps would miss is found now.

    Raises:
        ValueError: it is of other parameters.
        KeyError: something is missing.
    """
    own = [group.keys() & {*IN_GROUPS} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for keys, group in zip(own, optimizer.param_groups, strict=True):
        if lost := keys - group.keys():
            raise KeyError(f"the optimizer's {min(lost)}")
    needed = MOMENTS.get(type(optimizer))
    for param, held in optimizer.state.items() if needed is not None else ():
        if lost := {*(needed or ())} - held.keys():
            raise KeyError(f"the optimizer's {min(lost)}")
        for key, value in held.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != param.shape:
                shapes = tuple(value.shape), tuple(param.shape)
                raise ValueError(f"the optimizer's {key} has shape {shapes[0]}, here {shapes[1]}")
