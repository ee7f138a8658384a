"""Checkpoints: `checkpoints/step-N/{weights.safetensors, state.pt, sha256.json}`.

A checkpoint is written under another name, flushed to the disk and renamed, so that one that has
its name is whole. Loading checks each digest first (torch does not notice a flipped byte) and
unpickles nothing but tensors and plain containers.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_map

from prunekit.errors import CheckpointError, WriteError
from prunekit.foundation.files import check_digest, flush, free_space, sha256, text_of
from prunekit.foundation.unfinished import unfinished
from prunekit.runs.directory import NOTHING_SAVED

WEIGHTS, STATE, DIGESTS = "weights.safetensors", "state.pt", "sha256.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run continues from."""

    step: int
    weights: dict[str, Tensor]
    """Dense W and buffers, by their plain names."""
    state: dict[str, Any]
    """Everything else: masks, optimizer, strategies, EMA, ..."""


def save_checkpoint(run_dir: Path, step: int, weights: Mapping[str, Tensor], state: Any) -> Path:
    """Write `checkpoints/step-<step>` in one piece.

    Raises:
        WriteError: no space or no permission; earlier checkpoints stay as they are.
        RuntimeError: of the device that the tensors are on, as it was raised.
    """
    # a device tells of an earlier fault at the first read: not where it would pass for a full disk
    weights, state = _on_host(dict(weights)), _on_host(state)
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}  # may lack memory
    final = run_dir / "checkpoints" / f"step-{step}"
    part = final.with_name(f".{final.name}.part")
    try:
        with unfinished(part, str(final)):
            shutil.rmtree(part, ignore_errors=True)
            final.parent.mkdir(exist_ok=True)  # not the run directory, which may be gone
            part.mkdir()
            save_file(plain, part / WEIGHTS)
            torch.save(state, part / STATE)
            digests = {name: sha256(part / name) for name in (WEIGHTS, STATE)}
            (part / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            for path in part.iterdir():
                flush(path)
            flush(part)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(part, final)
            flush(final.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer
        then = (
            f"earlier checkpoints are whole; free some space, then `prunekit resume {run_dir}`"
            if checkpoints(run_dir)
            else "there is no earlier one; free some space, then begin again with `prunekit run`"
        )
        raise WriteError(
            f"{final}: the checkpoint could not be written ({error.__class__.__name__}, "
            f"{free_space(final)}): {then}"
        ) from error
    return final


def _on_host(tree: Any) -> Any:
    """A copy of dicts, lists and tuples whose tensors are on the CPU."""
    return tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, tree)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check it against its digests.

    Raises:
        CheckpointError: missing, cut short, changed, or holding anything but plain data.
    """
    try:
        digests = json.loads(text_of(path / DIGESTS))
        for name in (WEIGHTS, STATE):
            check_digest(path / name, digests)
        weights = load_file(path / WEIGHTS)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (OSError, ValueError, AttributeError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: no readable checkpoint: {error}") from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: refused: it holds more than plain data") from error
    return Checkpoint(step_of(path), weights, state)


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [
        p for p in (run_dir / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", p.name)
    ]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint, dict[int, str]]:
    """The newest checkpoint that is whole; of each newer one, which is not, step and reason.

    Raises:
        CheckpointError: there is none.
    """
    refused: dict[int, str] = {}
    for path in reversed(checkpoints(run_dir)):
        try:
            return load_checkpoint(path), refused
        except CheckpointError as error:
            refused[step_of(path)] = str(error)
    if not refused:
        raise CheckpointError(f"{run_dir}: {NOTHING_SAVED}")
    detail = "; ".join(refused.values())
    raise CheckpointError(f"{run_dir}: no checkpoint to resume from: {detail}")


def delete_old_checkpoints(
    run_dir: Path,
    saved: int,
    keep_steps: Collection[int],
    refused: Collection[int] = (),
    newest: int = 2,
) -> None:
    """Delete all up to the one just saved but the newest ones and those of `keep_steps`.

    Args:
        run_dir: the run directory.
        saved: the step that was just saved. Those after it are of a run that went further and could
            not be read: they are none of the newest, and stay until they are written anew.
        keep_steps: kept for good.
        refused: steps that could not be read when the run was resumed: none of the newest either.
        newest: how many of the others are kept.
    """
    known = [path for path in checkpoints(run_dir) if step_of(path) <= saved]
    whole = [path for path in known if step_of(path) == saved or step_of(path) not in refused]
    for path in known:
        if path not in whole[-newest:] and step_of(path) not in keep_steps:
            shutil.rmtree(path, ignore_errors=True)
