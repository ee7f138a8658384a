"""The numbers of runs that a report compares: where each stands, what it is called. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunekit.foundation.number_text import percent, si, size_text


@dataclass(frozen=True)
class Column:
    """A number of `report.json`, in its unit there: accuracies are shares."""

    name: str
    """In a CSV file."""
    keys: tuple[str, ...]
    """Where it stands; what an export measured is below `export`."""
    heading: str = ""
    """In the table of results or, where `measured`, of costs; empty: it has no column there."""
    as_text: Callable[[float], str] = str
    """Writes it there."""
    unlike: str = ""
    """It has a column only where it is another number than that of this name."""
    measured: bool = False
    """Whether it belongs to the costs as measured."""


def _latency(runtime: str, batch: str, *path: str) -> tuple[Column, ...]:
    """What a runtime takes for a batch, and the dense model in it."""
    name, at = f"latency_{runtime}_{batch}", (*path, runtime, batch)
    short = "ORT" if runtime == "onnxruntime" else runtime
    # runs of before have no more than this one, and have it here
    own = ("latency", "median_ms") if (runtime, batch) == ("torch", "1") else (*at, "median_ms")
    ms, times = "{:.2f}".format, "{:.2f} x".format
    return (
        Column(f"{name}_ms", own, f"{short} b{batch}, ms", ms, measured=True),
        Column(f"{name}_dense_ms", (*at, "dense_ms"), "dense, ms", ms, measured=True),
        Column(f"{name}_ratio", (*at, "ratio"), f"{short} b{batch} / dense", times, measured=True),
    )


COLUMNS = (
    Column("test_top1", ("accuracy", "test_top1")),
    Column("validation_top1", ("accuracy", "validation_top1")),
    Column("test_loss", ("loss", "test")),
    Column("sparsity_in_scope", ("sparsity", "scope"), "in scope pruned", percent),
    Column(
        "sparsity_in_units",
        ("sparsity", "units"),
        "units pruned",
        percent,
        unlike="sparsity_in_scope",
    ),
    Column("sparsity_target", ("sparsity", "target")),
    Column(
        "sparsity_asked",
        ("sparsity", "asked"),
        "units asked",
        percent,
        unlike="sparsity_target",
    ),
    Column(
        "sparsity_effective",
        ("sparsity", "effective"),
        "zeros multiplied",
        percent,
        unlike="sparsity_in_scope",
    ),
    Column("sparsity_of_model", ("sparsity", "model")),
    Column("tokens", ("tokens", "after"), "tokens", "{:.0f}".format),
    Column("macs_dense", ("macs", "dense")),
    Column("macs_executed", ("macs", "executed"), "MACs executed", si),
    Column("macs_theoretical", ("macs", "theoretical"), "MACs theoretical", si),
    Column("parameters", ("parameters", "total")),
    Column("parameters_nonzero", ("parameters", "nonzero")),
    Column("parameters_pruned", ("parameters", "pruned")),
    Column("parameters_removed", ("parameters", "removed")),
    Column("parameters_stored", ("parameters", "stored"), "parameters", si, measured=True),
    Column("steps", ("train", "steps")),
    Column("training_flops", ("train", "flops"), "training FLOPs", si),
    Column("training_seconds", ("train", "wall_seconds")),
    Column("images_per_second", ("train", "images_per_second")),
    *(
        Column(f"file_{form}", ("files", form), f"file, {form}", size_text, measured=True)
        for form in ("plain", "packed", "zipped", "dense")
    ),
    *_latency("torch", "1", "latency"),
    *_latency("torch", "8", "latency"),
    *_latency("onnxruntime", "1", "export", "latency"),
    *_latency("onnxruntime", "8", "export", "latency"),
    Column("latency_threads", ("latency", "threads"), "threads", "{:.0f}".format, measured=True),
)
KEYS = {column.name: column.keys for column in COLUMNS}
"""Name -> where the number stands."""
