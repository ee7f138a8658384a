"""The numbers of runs that a report compares: where each stands, what it is called. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunekit.foundation.number_text import percent, si


@dataclass(frozen=True)
class Column:
    """A number of `report.json`, in its unit there: accuracies are shares."""

    name: str
    """In a CSV file."""
    keys: tuple[str, str]
    """Where it stands."""
    heading: str = ""
    """In the table of results; empty: it has no column there."""
    as_text: Callable[[float], str] = str
    """Writes it there."""
    unlike: str = ""
    """It has a column only where it is another number than that of this name."""


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
    Column("parameters_stored", ("parameters", "stored")),
    Column("steps", ("train", "steps")),
    Column("training_flops", ("train", "flops"), "training FLOPs", si),
    Column("training_seconds", ("train", "wall_seconds")),
    Column("images_per_second", ("train", "images_per_second")),
)
KEYS = {column.name: column.keys for column in COLUMNS}
"""Name -> where the number stands."""
