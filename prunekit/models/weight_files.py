"""Files of weights that others wrote: safetensors, or what `torch.save` makes of tensors alone."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.foundation.files import open_regular, require_regular
from prunekit.runs.tensors import read_tensors

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
"""What a path to a file ends with, where nothing lies there that could be looked at."""
DEEPEST = 8
"""Levels of dictionaries that are looked through for tensors."""
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""How torch names what a pickle would have called."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, on the CPU, with nothing of it run as code.

    Args:
        path: the file; its content says of which kind it is, not its name.

    Returns:
        By dotted name: `{"state_dict": {"fc.bias": b}}` has `state_dict.fc.bias`. The names are in
        the order of the file.

    Raises:
        CheckpointError: missing, no regular file, cut short, of another kind, or with more in it
            than tensors and plain values.
    """
    require_regular(path)
    try:
        with open_regular(path) as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    safetensors = start[8:] == b"{"
    pickled = start.startswith((b"PK", b"\x80")) or path.suffix in TORCH_SUFFIXES
    if safetensors or not pickled:
        return read_tensors(path)[0]
    found = dict(_named_tensors(_unpickled(path), "", set(), DEEPEST))
    if not found:
        raise CheckpointError(f"{path}: holds no tensors with names: give it a state_dict")
    return found


def _unpickled(path: Path) -> object:
    try:
        # opened here, as torch goes by the ending of a path; its warnings are of the pickle
        with open_regular(path) as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken pickle raises is of any kind
        text = " ".join(str(error).split())
        if called := GLOBAL.search(text):
            raise CheckpointError(
                f"{path}: refused, as loading it would run code of its own ({called[1]}): save the "
                "tensors alone, as torch.save(model.state_dict(), FILE)"
            ) from error
        if "TorchScript" in text:
            raise CheckpointError(
                f"{path}: a TorchScript program, not a file of tensors: save its state_dict() alone"
            ) from error
        said = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
        reason = textwrap.shorten(said, 120, placeholder=" ..")
        raise CheckpointError(
            f"{path}: corrupt, or no file of torch.save: {reason or 'it ends too early'}"
        ) from error


def _named_tensors(
    value: object, name: str, seen: set[int], levels: int
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in nested dictionaries; a dictionary that stands in several places, once."""
    if isinstance(value, Tensor):
        if name:
            yield name, value.detach()
    elif isinstance(value, Mapping) and id(value) not in seen and levels:
        seen.add(id(value))
        for key, inner in value.items():
            yield from _named_tensors(
                inner, f"{name}.{key}" if name else str(key), seen, levels - 1
            )
