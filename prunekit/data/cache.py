"""Decoded sets on the disk: files are decoded once. The folder can be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunekit.errors import ResourceError
from prunekit.foundation.cache_files import cache_folder, cache_limit, make_room, note_use
from prunekit.foundation.devices import HOST, free_memory
from prunekit.foundation.files import replacing
from prunekit.foundation.number_text import size_text
from prunekit.foundation.system import memory_left
from prunekit.foundation.text import printable
from prunekit.registry.configs import Samples


def cached(key: str, decode: Callable[[], Samples]) -> Samples:
    """The samples kept under a key; else decode and keep them. Other processes wait meanwhile.

    A file that is damaged is made again. Where the folder cannot be written a warning tells so.

    Args:
        key: a file name that changes with whatever `decode` depends on.
        decode: makes the samples; what it raises passes through.
    """
    try:
        path = cache_folder() / f"{key}.safetensors"
    except RuntimeError as error:  # no home
        _warn(str(error))
        return decode()
    if (found := _read(path, key)) is not None:
        return found
    with _one_at_a_time(path) as writable:
        samples = _read(path, key) or decode()
        if writable:
            _write(path, key, samples)
    return samples


def is_cached(key: str) -> bool:
    """Whether there is a file of samples under a key; it may be damaged."""
    try:
        return (cache_folder() / f"{key}.safetensors").is_file()
    except (RuntimeError, OSError):  # no home
        return False


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[bool]:
    """Hold the lock of a cache file; yields whether the folder can be written."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _warn(f"{path.parent}: {error}")
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _warn(reason: str) -> None:
    warnings.warn(
        printable(
            f"decoded images are not kept for the next run: {reason}: set PRUNEKIT_CACHE to a "
            "folder that you may write"
        ),
        stacklevel=4,
    )


def samples_digest(samples: Samples) -> str:
    """SHA-256 of all that is in `samples`, 64 hex digits."""
    found = hashlib.sha256(repr((tuple(samples.images.shape), samples.classes)).encode())
    for tensor in (samples.labels, samples.images):
        found.update(tensor.cpu().contiguous().numpy().data)
    return found.hexdigest()


def _write(path: Path, key: str, samples: Samples) -> None:
    tensors = {"images": samples.images, "labels": samples.labels}
    metadata = {
        "key": key,
        "classes": json.dumps(samples.classes),
        "sha256": samples_digest(samples),
    }
    size = samples.images.nbytes + samples.labels.nbytes
    if not make_room(path.parent, size):
        _warn(
            f"they take {size_text(size)}, and PRUNEKIT_CACHE_LIMIT is {cache_limit() / 1e9:g} GB"
        )
        return
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (ResourceError, SafetensorError) as error:
        _warn(str(error))


def _read(path: Path, key: str) -> Samples | None:
    """The samples, mapped from the file; None where it is missing, damaged or of another key."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        samples = Samples(images, labels, tuple(json.loads(metadata["classes"])))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    right = images.dtype == torch.uint8 and images.ndim == 4 and labels.dtype == torch.int64
    right = right and labels.shape == images.shape[:1] and metadata["key"] == key
    if not right or samples_digest(samples) != metadata["sha256"]:
        return None
    note_use(path)
    return samples


NO_LIMIT = 2**63


def available_memory(device: torch.device = HOST) -> int:
    """Bytes that can still be taken on a device; on the host no more than the control group has.

    Of a device that does not tell there is no limit: what is too large fails there.
    """
    if device.type != "cpu":
        told = free_memory(device)
        return NO_LIMIT if told is None else told[0]
    return memory_left()


def require_memory(size: int, what: str, remedy: str, device: torch.device = HOST) -> None:
    """Refuse a tensor that does not fit.

    Args:
        size: bytes.
        what: the subject of the message.
        remedy: what to do about it.
        device: where the tensor would live.

    Raises:
        ResourceError: `size` is more than the device has left.
    """
    available = available_memory(device)
    if size > available:
        raise ResourceError(
            f"{what}: {size / 1e9:.3g} GB as decoded pixels, which are kept in memory, but "
            f"{device.type} has {available / 1e9:.3g} GB left: {remedy}"
        )
