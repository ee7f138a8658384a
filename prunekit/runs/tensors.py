"""Safetensors files that know whether they are whole: a digest travels in their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.foundation.files import replacing, require_regular
from prunekit.runs.packed import PACKED, pack, unpack

METADATA = "prunekit-metadata"
"""One key for all: several are written in no fixed order, and equal runs make equal files."""
DIGEST = "sha256"
LONGEST = 1 << 24
"""Characters of metadata: room for the names of 100,000 classes."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, packed: bool = False
) -> None:
    """Write tensors and metadata in one piece, with a digest over both.

    Args:
        path: the file to make or replace.
        tensors: may share memory; each name gets its own copy of the data.
        metadata: any strings but the keys `sha256` and `prunekit-packed`.
        packed: whether zeros are left out where that is smaller (`runs/packed.py`).

    Raises:
        ResourceError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    own, metadata = _stored(tensors, metadata, packed=packed)
    with replacing(path) as temporary:
        try:
            save_file(own, temporary, _told(metadata, _digest(own, metadata)))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def packed_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """The size of the file that `write_tensors` would write with `packed`."""
    own, metadata = _stored(tensors, metadata, packed=True)
    any_digest = hashlib.sha256().hexdigest()
    return len(save(own, _told(metadata, any_digest)))


def _stored(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, packed: bool
) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    # safetensors refuses names that share memory, as tied weights do
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    if not packed:
        return own, metadata
    own, shapes = pack(own)
    return own, {**metadata, **shapes}


def _told(metadata: Mapping[str, str], digest: str) -> dict[str, str]:
    return {METADATA: json.dumps({**metadata, DIGEST: digest}, sort_keys=True)}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file, plain or packed, and, where it has a digest, check it.

    Returns:
        The tensors on the CPU, and the metadata without the digest and what was packed.

    Raises:
        CheckpointError: missing, no regular file, cut short, or changed since it was written.
    """
    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _strings(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt or no safetensors file: {error}") from error
    digest = metadata.pop(DIGEST, None)
    if digest is not None and digest != _digest(tensors, metadata):
        raise CheckpointError(f"{path}: corrupt: its content does not match its digest")
    if PACKED not in metadata:
        return tensors, metadata
    try:
        return unpack(tensors, metadata), {k: v for k, v in metadata.items() if k != PACKED}
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt: {error}") from error


def _strings(stored: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ValueError: not as `write_tensors` writes it.
    """
    found = dict(stored)
    text = found.pop(METADATA, "{}")
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters of metadata, more than {LONGEST}")
    own = json.loads(text)
    if not isinstance(own, dict) or not all(isinstance(value, str) for value in own.values()):
        raise ValueError("its metadata is no list of strings by name")
    return found | own


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
