"""How a dry run looks: a table of tensors, then what the run would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prunekit.foundation.number_text import percent, seconds_text, si, units_text

if TYPE_CHECKING:
    from prunekit.pruning.sparsity import UnitCount
    from prunekit.train.dry_run import DryRun, TensorPlan

OTHER_COLUMNS = 48  # what shape, density and reason need beside the name at 80 columns


def dry_run_view(plan: DryRun, width: int = 80) -> RenderableType:
    """The whole of a dry run, in `width` columns."""
    lines: list[RenderableType] = [
        Text(f"Dry run of {plan.recipe_name} on {plan.device}: nothing was trained or written."),
        tensors_view(plan.tensors, max(20, width - OTHER_COLUMNS)),
        costs_view(plan),
    ]
    if any(tensor.density is not None for tensor in plan.tensors):
        about = "Densities, and MACs without masked weights, are those of the start weights."
        lines.append(Text(about, style="dim"))
    lines += [Text(line) for line in plan.changes]
    lines += [Text(f"Note: {note}", style="yellow") for note in plan.notes]
    return Group(*lines)


def tensors_view(tensors: tuple[TensorPlan, ...], name_width: int) -> Table:
    """Per tensor: shape, planned density, and which strategy prunes it or why none does."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("tensor", no_wrap=True)
    table.add_column("shape", no_wrap=True, justify="right")
    table.add_column("density", no_wrap=True, justify="right")
    table.add_column("pruned by, or why not", overflow="fold")
    for tensor in tensors:
        shape = "x".join(str(size) for size in tensor.shape) or "scalar"
        table.add_row(
            Text(shortened(tensor.name, name_width)),
            shape,
            density_text(tensor),
            Text(tensor.strategy or tensor.reason),
            style=None if tensor.strategy else "dim",
        )
    return table


def density_text(tensor: TensorPlan) -> str:
    """`0.200`; `emerges` where the strategy promises none; `-` where nothing is pruned."""
    if tensor.strategy is None:
        return "-"
    return "emerges" if tensor.density is None else f"{tensor.density:.3f}"


def costs_view(plan: DryRun) -> Table:
    """Steps, sizes and time."""
    table = Table.grid(padding=(0, 2))
    epochs = f"{plan.epochs:g} epochs of {plan.steps_per_epoch:,} steps"
    rows = {
        "steps": f"{plan.steps:,} ({epochs})",
        "parameters": _parameters(plan),
        **{f"pruned by {one.label}": _units(one) for one in plan.units},
        "tokens": None
        if plan.tokens_before is None
        else f"{plan.tokens_before} -> {plan.tokens_after}",
        "MACs per input": f"{si(plan.macs_dense)} dense, "
        f"{si(plan.macs_executed)} executed, "
        f"{si(plan.macs_theoretical)} without the masked weights",
        "memory": f"{si(plan.memory_bytes)}B",
        "disk": f"{si(plan.disk_bytes)}B",
        "time": f"{seconds_text(plan.total_seconds)} at {plan.step_seconds:.3g} s a step "
        "(three steps timed)",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, Text(value))
    return table


def _parameters(plan: DryRun) -> str:
    text = f"{plan.parameters:,}, of which {plan.scope_parameters:,} in scope"
    if along := plan.masked_parameters - plan.scope_parameters:
        text += f" and {along:,} go with them" if along > 0 else ""
    if plan.masked_parameters:
        share = percent(plan.pruned_parameters / plan.masked_parameters)
        text += f"; {plan.pruned_parameters:,} pruned at the end, {share} of these"
    return text


def _units(one: UnitCount) -> str:
    return units_text(one.unit, one.kept, one.total, one.target, one.asked)


def shortened(name: str, width: int) -> str:
    """`name` in at most `width` characters: the middle goes, as both ends tell tensors apart."""
    if len(name) <= width:
        return name
    tail = (width - 2) * 2 // 3
    return f"{name[: width - 2 - tail]}..{name[len(name) - tail :]}"
