"""A report for the terminal. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from prunekit.foundation.console import WIDE
from prunekit.report.document import Report
from prunekit.report.tables import Table

MOST_MISSING = 10
GAP = 2
"""Spaces between columns."""
WORDS = 24
"""A column of words may be made as narrow as this."""


def print_report(report: Report, files: list[Path], screen: Console) -> None:
    """Print a report: to a terminal as wide as it is, to a pipe in full width."""
    for one in _texts(report, files, None if not screen.is_terminal else screen.width):
        if isinstance(one, RichTable) and not screen.is_terminal:
            screen.print(one, width=WIDE, crop=False, no_wrap=True)
        else:
            screen.print(one)


def _texts(report: Report, files: list[Path], width: int | None) -> Iterator[RenderableType]:
    yield Text(report.title, style="bold")
    if report.conditions:
        yield Text(report.conditions, style="dim")
    for notice in report.notices:
        yield Text(f"! {notice}", style="yellow")
    for one in report.tables:
        shown = len(one.columns) if width is None else fitting(one, width)
        yield Text()
        yield rich_table(one, shown, WORDS if width else None)
        if one.note:
            yield Text(one.note, style="dim")
        if left_out := ", ".join(one.columns[shown:]):
            yield Text(f"Too wide for this terminal: {left_out}.", style="yellow")
    if report.missing:
        yield Text()
        yield Text("Missing or left out", style="bold")
        for line in report.missing[:MOST_MISSING]:
            yield Text(f"- {line}")
        if (rest := len(report.missing) - MOST_MISSING) > 0:
            yield Text(f"and {rest} more", style="dim")
    yield Text()
    page = next((path for path in files if path.suffix == ".html"), None)
    yield Text(f"page: {page}" if page else "pictures and one page of it all: add --out DIR")


def fitting(one: Table, width: int) -> int:
    """How many columns, from the left, fit; the words always do."""
    used = 0
    for i in range(len(one.columns)):
        used += _least(i, one, WORDS) + (GAP if i else 0)
        if used > width and i >= one.words:
            return i
    return len(one.columns)


def _least(column: int, one: Table, words: int | None) -> int:
    """The least width: a number is whole, a heading is broken between words."""
    longest = max((len(row[column]) for row in one.rows), default=0)
    heading = max(map(len, one.columns[column].split()))
    return max(heading, min(longest, words or longest) if column < one.words else longest)


def rich_table(one: Table, shown: int, words: int | None) -> RichTable:
    """The first columns of a table; those of words no narrower than `words`, None = whole."""
    made = RichTable(
        title=Text(one.title),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
    )
    for i, name in enumerate(one.columns[:shown]):
        least = _least(i, one, words)
        if i < one.words:
            made.add_column(Text(name), overflow="fold", min_width=least)
        else:
            made.add_column(Text(name), justify="right", width=least)
    for row in one.rows:
        made.add_row(*map(Text, row[:shown]))
    return made
