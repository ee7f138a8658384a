"""How many parameters the masks prune, per tensor, in scope and in the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class TensorSparsity:
    """One masked parameter."""

    name: str
    entries: int
    kept: int
    rows: int
    """Rows of dimension 0, the output units; 0 for a vector, whose entries are not rows."""
    empty_rows: int
    """Rows without a single kept entry."""

    @property
    def density(self) -> float:
        """Share of the entries that is kept, [0, 1]."""
        return self.kept / self.entries if self.entries else 1.0


@dataclass(frozen=True, slots=True)
class Sparsity:
    """What the masks prune. A tied parameter counts once."""

    tensors: tuple[TensorSparsity, ...]
    """The masked parameters, in the order of the model."""
    parameters: int
    """Entries of all parameters of the model."""

    @property
    def pruned(self) -> int:
        """Entries that the masks prune."""
        return sum(tensor.entries - tensor.kept for tensor in self.tensors)

    @property
    def nonzero(self) -> int:
        """Entries of the model that no mask prunes."""
        return self.parameters - self.pruned

    @property
    def scope(self) -> float:
        """Pruned share of the masked parameters, [0, 1]; 0 without masks."""
        entries = sum(tensor.entries for tensor in self.tensors)
        return self.pruned / entries if entries else 0.0

    @property
    def model(self) -> float:
        """Pruned share of all parameters, [0, 1]."""
        return self.pruned / self.parameters if self.parameters else 0.0

    def layers(self) -> list[dict[str, Any]]:
        """The rows `layers` of a report."""
        return [
            {"name": t.name, "entries": t.entries, "kept": t.kept, "density": t.density}
            for t in self.tensors
        ]


def measure_sparsity(model: nn.Module, masks: Mapping[str, Tensor]) -> Sparsity:
    """Count what `masks` prune of `model`.

    Args:
        model: the plain module.
        masks: parameter name -> bool of its shape, True = kept; a tied parameter under one name.

    Raises:
        ValueError: a mask of no parameter, of another shape, or of a parameter masked twice.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in named or named[name].shape != mask.shape:
            raise ValueError(f"mask {name!r} of shape {tuple(mask.shape)} fits no parameter")
    if len({id(named[name]) for name in masks}) < len(masks):
        raise ValueError("a tied parameter is masked under two names")
    return Sparsity(
        tensors=tuple(_count(name, masks[name]) for name in named if name in masks),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _count(name: str, mask: Tensor) -> TensorSparsity:
    rows = len(mask) if mask.ndim > 1 else 0
    empty = int((~mask.flatten(1).any(1)).sum()) if rows else 0
    return TensorSparsity(name, mask.numel(), int(mask.sum()), rows, empty)


def warn_empty(sparsity: Sparsity) -> list[str]:
    """A sentence for each tensor that is empty, and one for all empty rows of the others."""
    return [*warn_empty_tensors(sparsity), *warn_empty_rows(sparsity)]


def warn_empty_tensors(sparsity: Sparsity) -> list[str]:
    """A sentence for each tensor with rows of which nothing is kept; a bias may go whole."""
    return [
        f"{tensor.name} is empty: all {tensor.entries:,} entries are pruned, so no signal "
        "passes it; lower the sparsity, set min_keep, or take it out of the scope"
        for tensor in sparsity.tensors
        if tensor.rows and tensor.entries and not tensor.kept
    ]


def warn_empty_rows(sparsity: Sparsity) -> list[str]:
    """At most one sentence, on the tensors that have empty rows, and others."""
    found = [tensor for tensor in sparsity.tensors if tensor.kept and tensor.empty_rows]
    if not found:
        return []
    worst = max(found, key=lambda tensor: tensor.empty_rows / tensor.rows)
    share = f"{worst.empty_rows:,} of {worst.rows:,} rows are empty"
    if len(found) > 1:
        rows = sum(tensor.empty_rows for tensor in found)
        share += f", the largest share of {len(found)} tensors with {rows:,} empty rows"
    return [f"{worst.name}: {share}: those units give a constant whatever the input"]
