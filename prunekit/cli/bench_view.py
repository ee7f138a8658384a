"""Measurements as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from prunekit.bench.measure import Row, Section

STYLES = {"met": "green", "not met": "red"}


def head_view(about: Mapping[str, Any], *, quick: bool) -> RenderableType:
    """The machine, and what is counted."""
    from rich.text import Text

    found = about["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    on_host = found["device"] == "cpu"
    clock = "process time on one thread" if on_host else f"time on {found['device']}"
    lines = [
        f"{found['device_name']}, {about['cpus']} CPUs, load {about['load']:.1f}; {found['os']}",
        f"Python {found['python']}, {versions}",
        f"{clock}; medians, and the 95 % interval of each ratio",
    ]
    if quick:
        lines.append("quick: too small to judge any goal")
    return Text("\n".join(lines))


def section_view(section: Section) -> RenderableType:
    """A title, the rows, and what to know about them."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [
        "",
        Text(f"{section.name}: {section.title}", style="bold"),
        Text(f"baseline: {section.baseline}"),
        rows_view(section.rows),
    ]
    lines += [Text(f"- {note}", style="dim") for note in [*null_notes(section), *section.notes]]
    return Group(*lines)


def null_notes(section: Section) -> list[str]:
    """How restless the machine was."""
    if section.null is None:
        return []
    near = "within" if section.null <= 0.01 else "NOT within"
    text = f"{section.rounds} rounds; the baseline is {near} 1 % of itself (+-{section.null:.1%})"
    return [text]


def rows_view(rows: list[Row]) -> Table:
    """One line a row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    units = ", ".join(dict.fromkeys(row.unit for row in rows))
    counted = any(row.macs is not None for row in rows)
    for name in (f"ours, {units}", "baseline", "ratio", *(["MACs"] if counted else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.what),
            number(row.ours),
            number(row.baseline),
            ratio_text(row),
            *(["-" if row.macs is None else f"{row.macs:.3f}"] if counted else ()),
            row.goal,
            Text(row.verdict, style=STYLES.get(row.verdict, "")),
        )
    return table


def number(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio_text(row: Row) -> str:
    """`0.041 +-0.002`, as far as the interval goes."""
    if row.ratio is None:
        return "-"
    if row.interval is None:
        return f"{row.ratio:.3f}"
    return f"{row.ratio:.3f} +-{max(abs(end - row.ratio) for end in row.interval):.3f}"
