"""Bytes a weight: what masks hold, and what a search takes at its peak."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from prunekit.bench.cases import (
    FULL,
    PEER,
    QUICK,
    SPARSITY,
    Size,
    TrainingCase,
    by_kthvalue,
    by_peer,
    dense,
    masked,
    scope_size,
)
from prunekit.bench.measure import Row, Section, in_bytes
from prunekit.pruning.search import find_threshold
from prunekit.pruning.selection import keep_count


def memory(size: Size) -> Section:
    """Tensors alive after a training step, and the peak of a search."""
    weights = scope_size(size.vit())
    makes: dict[str, tuple[Callable[[], TrainingCase], float | None]] = {
        "hard": (lambda: masked(size, "hard"), 4),
        "ste": (lambda: masked(size, "ste"), 8),
        PEER: (lambda: by_peer(size), None),
    }
    base = held_bytes(size, lambda: dense(size)) / weights
    rows = [
        in_bytes(
            f"held, {name}",
            held_bytes(size, make) / weights,
            base,
            goal,
            over=True,
            judged=size.judged,
        )
        for name, (make, goal) in makes.items()
    ]
    return Section(
        name="memory",
        title=f"memory of a ViT {size.width}x{size.depth}, {weights:,} weights in scope",
        baseline="held: the dense model with gradients and AdamW state; "
        "search: torch.kthvalue on torch.cat of all |w|",
        rows=[*rows, *search_peak(size)],
        notes=[
            "held: the storages of all tensors alive after a step, counted: exact",
            "search: the highest resident memory above the weights, in a fresh process; it is "
            "counted in pages, and what the allocator keeps is not ours alone: good to 0.1 B",
        ],
    )


def held_bytes(size: Size, make: Callable[[], TrainingCase]) -> int:
    """Bytes that a training holds between two steps, gradients included."""
    x, y = size.images(1)
    before = live_bytes()
    training = make()
    for _ in range(2):
        training.step(x, y)
    return live_bytes() - before


def live_bytes() -> int:
    """Bytes of the storages of all tensors that are alive."""
    gc.collect()
    # exactly these: a tensor of torch.compile's own tracing has no storage of its own
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, Parameter)]
    tensors += [x.grad for x in tensors if x.is_leaf and x.grad is not None]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def search_peak(size: Size) -> list[Row]:
    """What a search takes above the weights; nothing where the system does not tell."""
    name = "full" if size.judged else "quick"
    command = [sys.executable, "-m", "prunekit.bench.memory", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        return []
    ours, theirs = map(float, done.stdout.split())
    row = in_bytes("search, at its peak", ours, theirs, 0.5, over=False, judged=size.judged)
    return [row]


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Bytes of `VmHWM`, the most since the last reset, or `VmRSS`, now. Linux only."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
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
    RESET.write_text("5", encoding="ascii")
    before = resident("VmRSS")
    work()
    return max(0, resident("VmHWM") - before)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*peaks(sys.argv[1]))  # noqa: T201 - for the parent
