"""Highest memory of one search, in a process of its own: another's leftovers would hide it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from prunekit.bench.sizes import FULL, QUICK
from prunekit.bench.threshold import SPARSITY, by_kthvalue
from prunekit.pruning.selection import find_threshold, keep_count

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Bytes of `VmHWM`, the most since the last reset, or `VmRSS`, now. Linux only."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def peaks(name: str) -> tuple[float, float]:
    """Bytes a weight that a search takes above what is there before it: ours, then kthvalue.

    Args:
        name: `full` or `quick`.

    Raises:
        OSError: the system does not tell.
    """
    size = FULL if name == "full" else QUICK
    weights = size.weights()
    total = sum(weight.numel() for weight in weights)
    keep = keep_count(total, SPARSITY)

    def ours() -> None:
        find_threshold(weights, keep, key=torch.abs)

    small = [torch.rand(100_000)]  # what is loaded at the first use is no search's
    find_threshold(small, 10_000, key=torch.abs)
    by_kthvalue(small, 10_000)
    return above(ours) / total, above(lambda: by_kthvalue(weights, keep)) / total


def above(work: Callable[[], object]) -> int:
    """Bytes resident at most during `work`, above those before it."""
    RESET.write_text("5")
    before = resident("VmRSS")
    work()
    return max(0, resident("VmHWM") - before)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*peaks(sys.argv[1]))  # noqa: T201 - for the parent
