"""A report as Markdown. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prunekit.report.document import Document, Picture
from prunekit.report.tables import Table


def markdown(document: Document) -> str:
    """The whole report; pictures are links to the files beside it."""
    parts = [f"# {escaped(document.title)}", escaped(document.conditions)]
    parts += [bullets(document.notices, bold=True)]
    parts += [table(one) for one in document.tables]
    parts += [picture(one) for one in document.pictures]
    if document.missing:
        parts += ["## Missing", bullets(document.missing)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(one: Table) -> str:
    """A heading, the rows, the note."""
    align = [":--" if i < one.words else "--:" for i in range(len(one.columns))]
    rows = [one.columns, tuple(align), *one.rows]
    lines = [line(row) if row is not rows[1] else "|" + "|".join(row) + "|" for row in rows]
    return "\n".join([f"## {escaped(one.title)}", "", *lines, "", escaped(one.note)]).rstrip()


def line(row: Sequence[str]) -> str:
    """One row."""
    return "| " + " | ".join(escaped(text) for text in row) + " |"


def bullets(lines: Sequence[str], bold: bool = False) -> str:
    """A list."""
    mark = "**" if bold else ""
    return "\n".join(f"- {mark}{escaped(text)}{mark}" for text in lines)


def picture(one: Picture) -> str:
    """A heading, the picture, what it shows."""
    link = f"![{escaped(one.title)}]({one.name}.png)"
    return f"## {escaped(one.title)}\n\n{link}\n\n{escaped(one.caption)}"


def escaped(text: str) -> str:
    """Text that is no markup: neither Markdown nor HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", text).replace("&", "&amp;")
