"""How a dry run looks: a table of tensors, then what the run would cost."""

from __future__ import annotations

from collections.abc import Iterable
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
MOST_ROWS = 40
"""Of more tensors, those that are alike in each block have one row together."""


def dry_run_view(plan: DryRun, width: int = 80, *, each: bool = False) -> RenderableType:
    """The whole of a dry run, in `width` columns; `each` tensor on a row of its own, if asked."""
    groups = [[tensor] for tensor in plan.tensors]
    if not each and len(groups) > MOST_ROWS:
        groups = alike(plan.tensors)
    lines: list[RenderableType] = [
        Text(f"Dry run of {plan.recipe_name} on {plan.device}: nothing was trained or written."),
        tensors_view(groups, max(20, width - OTHER_COLUMNS)),
        costs_view(plan),
    ]
    if len(groups) < len(plan.tensors):
        about = f"{len(plan.tensors)} tensors in {len(groups)} rows: --all shows each."
        lines.append(Text(about, style="dim"))
    if any(tensor.density is not None for tensor in plan.tensors):
        about = "Densities, and MACs without masked weights, are those of the start weights."
        lines.append(Text(about, style="dim"))
    lines += [Text(line) for line in plan.changes]
    lines += [Text(f"Note: {note}", style="yellow") for note in plan.notes]
    return Group(*lines)


def alike(tensors: Iterable[TensorPlan]) -> list[list[TensorPlan]]:
    """Tensors whose names differ in numbers alone, as those of blocks do, and all else does not.

    In the order of the first of each group; densities within a group may differ. Behind them the
    vectors that nothing prunes, as those of norms: a group for each reason.
    """
    groups: dict[object, list[TensorPlan]] = {}
    aside: dict[str, list[TensorPlan]] = {}
    for one in tensors:
        if one.strategy is None and len(one.shape) == 1:
            aside.setdefault(one.reason, []).append(one)
            continue
        promised = one.density is not None
        key = (_pattern(one), one.shape, one.strategy, one.strategy or one.reason, promised)
        groups.setdefault(key, []).append(one)
    return [*groups.values(), *aside.values()]


def name_of(group: list[TensorPlan]) -> str:
    """`blocks.0-11.norm1.weight (12)`: the name of one tensor, or of some that are alike.

    `20 vectors` where they have no name in common.
    """
    if len({_pattern(one) for one in group}) > 1:
        return f"{len(group)} vectors"
    parts = []
    for same in zip(*(one.name.split(".") for one in group), strict=True):
        parts.append(same[0] if len({*same}) == 1 else _numbers(sorted({*map(int, same)})))
    return ".".join(parts) + (f" ({len(group)})" if len(group) > 1 else "")


def _pattern(one: TensorPlan) -> tuple[str, ...]:
    """Its name without numbers."""
    return tuple("" if part.isdecimal() else part for part in one.name.split("."))


def _numbers(found: list[int]) -> str:
    """`0-11`; `0,2,5` where some between are not there."""
    if found[-1] - found[0] == len(found) - 1 and len(found) > 2:
        return f"{found[0]}-{found[-1]}"
    return ",".join(map(str, found))


def tensors_view(groups: list[list[TensorPlan]], name_width: int) -> Table:
    """Per row: shape, planned density, and which strategy prunes it or why none does."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("tensor", no_wrap=True)
    table.add_column("shape", no_wrap=True, justify="right")
    table.add_column("density", no_wrap=True, justify="right")
    table.add_column("pruned by, or why not", overflow="fold")
    for group in groups:
        first = group[0]
        shapes = {"x".join(str(size) for size in one.shape) or "scalar" for one in group}
        table.add_row(
            Text(shortened(name_of(group), name_width)),
            shapes.pop() if len(shapes) == 1 else "",
            density_text(group),
            Text(first.strategy or first.reason),
            style=None if first.strategy else "dim",
        )
    return table


def density_text(group: list[TensorPlan]) -> str:
    """`0.200`; `emerges` where the strategy promises none; `-` where nothing is pruned."""
    if group[0].strategy is None:
        return "-"
    texts = {f"{one.density:.3f}" for one in group if one.density is not None}
    if not texts:
        return "emerges"
    return min(texts) if len(texts) == 1 else f"{min(texts)}-{max(texts)}"


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
        "passes": None
        if plan.passes == 1
        else f"{plan.passes:.3g} a step, forward and backward: as many times the cost of one",
        "memory": f"{si(plan.memory_bytes)}B",
        "disk": f"{si(plan.disk_bytes)}B, and its logs",
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
