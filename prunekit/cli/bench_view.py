"""How a benchmark looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prunekit.bench.rows import Row, Section

STYLES = {"met": "green", "not met": "red"}


def head_view(about: Mapping[str, Any], *, quick: bool) -> RenderableType:
    """The machine, and what is counted."""
    found = about["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['device_name']}, {about['cpus']} CPUs, load {about['load']:.1f}; {found['os']}",
        f"Python {found['python']}, {versions}",
        "process time on one thread; medians, and the 95 % interval of each ratio",
    ]
    if quick:
        lines.append("quick: too small to judge any goal")
    return Text("\n".join(lines))


def section_view(section: Section) -> RenderableType:
    """A title, the rows, and what to know about them."""
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
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    units = ", ".join(dict.fromkeys(row.unit for row in rows))
    for name in (f"ours, {units}", "baseline", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.what),
            number(row.ours),
            number(row.baseline),
            ratio_text(row),
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
