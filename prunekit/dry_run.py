"""What a run would do and cost, found without training. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one parameter."""

    name: str
    shape: tuple[int, ...]
    strategy: str | None
    """The strategy whose scope holds it; None = not pruned."""
    reason: str
    """Why it is in scope, or why not."""
    density: float | None
    """Planned share of kept units at the end, (0, 1]; None = not planned ahead (it emerges)."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """The plan of a run and its price; MACs are for one input in evaluation."""

    recipe_name: str
    tensors: tuple[TensorPlan, ...]
    steps: int
    epochs: float
    steps_per_epoch: int
    parameters: int
    """Parameters of the whole model."""
    scope_parameters: int
    """Parameters that a strategy may mask."""
    tokens_before: int | None
    """Tokens that enter the first slot; None = the model has no tokens."""
    tokens_after: int | None
    macs_dense: int
    """Without compression, without masks."""
    macs_executed: int
    """With compression; masked weights count, as stock kernels multiply zeros."""
    macs_theoretical: int
    """With compression; masked weights do not count."""
    memory_bytes: int
    """Estimated peak while training, data and masks included."""
    disk_bytes: int
    """Estimated size of the finished run directory."""
    step_seconds: float
    """Mean of three real steps."""
    total_seconds: float
    device: str
    notes: tuple[str, ...] = ()
    """Warnings worth a look before the run is started."""
