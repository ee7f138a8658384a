"""Between host and device: what is sent without a wait, and numbers that are read in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PINS = ("cuda", "xpu")
"""Their allocator of page-locked memory keeps it until the copy out of it is done."""
READS_LATE = ("cpu", "mps")
"""A copy to these must not outlive the call: MPS reads the host's memory after it is gone."""


def send(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`; the host goes on while it is copied.

    On a GPU it goes through page-locked memory, as a copy out of any other waits for the device.
    One that is not on the host is moved as `Tensor.to` does it.
    """
    if host.device.type != "cpu" or device.type in READS_LATE:
        return host.to(device)
    return (host.pin_memory() if device.type in PINS else host).to(device, non_blocking=True)


def read(numbers: Sequence[Tensor]) -> list[int]:
    """Whole numbers and flags of a device, each a tensor of one entry: the host waits once."""
    if not numbers:
        return []
    found: list[int] = torch.stack([one.reshape(()).to(torch.int64) for one in numbers]).tolist()
    return found
