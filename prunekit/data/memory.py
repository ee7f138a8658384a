"""Whether a set fits, asked before it is decoded."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from prunekit.errors import ResourceError

HOST = torch.device("cpu")


def available_memory(device: torch.device = HOST) -> int:
    """Bytes that can still be taken on a device; on the host no more than the control group has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        available = int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        available = min(available, limit)
    return available


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
