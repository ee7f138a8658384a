"""A report for the terminal. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text

from prunekit.report.document import Document
from prunekit.report.tables import Table

MOST_MISSING = 10


def renderables(document: Document, files: list[Path]) -> Iterator[RenderableType]:
    """What is printed, one after the other."""
    yield Text(document.title, style="bold")
    if document.conditions:
        yield Text(document.conditions, style="dim")
    for notice in document.notices:
        yield Text(f"! {notice}", style="yellow")
    for one in document.tables:
        yield Text()
        yield grid(one)
        if one.note:
            yield Text(one.note, style="dim")
    if document.missing:
        yield Text()
        yield Text("Missing", style="bold")
        for line in document.missing[:MOST_MISSING]:
            yield Text(f"- {line}")
        if (rest := len(document.missing) - MOST_MISSING) > 0:
            yield Text(f"and {rest} more", style="dim")
    yield Text()
    page = next((path for path in files if path.suffix == ".html"), None)
    yield Text(f"page: {page}" if page else "pictures and one page of it all: add --out DIR")


def grid(one: Table) -> Grid:
    """A table; words fold, numbers do not."""
    made = Grid(title=Text(one.title), title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(one.columns):
        words = i < one.words
        made.add_column(
            Text(name),
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
            vertical="top",
        )
    for row in one.rows:
        made.add_row(*map(Text, row))
    return made
