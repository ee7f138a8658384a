"""What the trainers of others have in common: other processes, saved state, the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from prunekit.errors import CheckpointError, UsageError
from prunekit.foundation.files import open_regular, replacing
from prunekit.foundation.suggestions import did_you_mean
from prunekit.pruning.context import OneProcess, Ranks
from prunekit.pruning.pruner import Pruner
from prunekit.train.distributed import ProcessGroup

STATE_FILE = "prunekit.pt"
"""Beside the files of a checkpoint that another trainer wrote: what `saved` gives."""
LOG = logging.getLogger("prunekit")


def other_processes(device: torch.device) -> Ranks:
    """The processes of the trainer, as a `Pruner` takes them: `ranks=`.

    Args:
        device: where tensors that the processes exchange must lie.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return OneProcess()
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), device)


def saved(pruner: Pruner) -> dict[str, Any]:
    """What a checkpoint needs beside the model: masks, state of strategies, dense weights."""
    dense = {name: pruner.dense(name).detach().cpu() for name in pruner.params}
    return {"pruner": pruner.state_dict(), "dense": dense}


def put_back(pruner: Pruner, state: Mapping[str, Any]) -> None:
    """Go on from what `saved` gave; the model's weights are written.

    Raises:
        UsageError: it is of another model or of other strategies; nothing is changed.
    """
    pruner.load_state_dict(state["pruner"], state["dense"])


def write_beside(folder: Path, pruner: Pruner) -> None:
    """Write `saved` into the folder of a checkpoint, in one piece.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    with replacing(folder / STATE_FILE) as temporary:
        torch.save(saved(pruner), temporary)


def read_beside(folder: Path, step: int) -> dict[str, Any]:
    """What `write_beside` wrote.

    Args:
        folder: of the checkpoint.
        step: what it was taken at, for the message.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    path = folder / STATE_FILE
    try:
        with open_regular(path) as file:
            found: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: is not there, so the masks of step {step} are not known: give "
            "TrainerPruning(resume_from=) the folder of the checkpoint"
        ) from error
    except Exception as error:  # of torch.load, which raises many kinds
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    return found


def finished(pruner: Pruner) -> nn.Module:
    """The finished model, also where training ended before its last step, which is told."""
    total = pruner.timeline.total_steps
    early = pruner.step < total
    model = pruner.finish(early=early)
    if early:
        units = ", ".join(f"{one.label} {one.sparsity:.4g}" for one in pruner.units())
        LOG.warning(
            "training ended at step %d of the %d that masks follow; sparsity: %s",
            pruner.step,
            total,
            units,
        )
    return model


MOST_NAMED = 8
"""Modules in a message."""


def module_at(root: nn.Module, path: str) -> nn.Module:
    """The module of this dotted name; `root` for none.

    Raises:
        UsageError: there is none.
    """
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        known = [name for name, _ in root.named_modules() if name]
        raise UsageError(
            f"{type(root).__name__} has no module {path!r}.{did_you_mean(path, known)} Known: "
            f"{', '.join(known[:MOST_NAMED])}"
        ) from error
