"""A report on the disk."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from prunekit.foundation.files import cannot_write, replacing
from prunekit.report.document import Comparison, Document, Picture
from prunekit.report.figures.style import save
from prunekit.report.spreadsheet import cell_rows, difference_rows, run_rows, write_csv
from prunekit.report.tables import Table


def write_document(document: Document, folder: Path) -> list[Path]:
    """Write the pictures, `report.md` and `index.html`, each in one piece.

    Raises:
        WriteError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    drawn = [path for one in document.pictures for path in save(one.figure, folder, one.name)]
    texts = {"index.html": page(document, folder), "report.md": markdown(document)}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [*(folder / name for name in texts), *drawn]


def write_numbers(found: Comparison, folder: Path) -> list[Path]:
    """Write `runs.csv`, `cells.csv` and, where cells are compared, `differences.csv`.

    Raises:
        WriteError: the folder cannot be written.
    """
    tables = {
        "runs.csv": run_rows(found.study),
        "cells.csv": cell_rows(found.study, found.key),
        "differences.csv": difference_rows(found.study, found.differences),
    }
    return [
        write_csv(folder / name, rows)
        for name, rows in tables.items()
        if rows or name != "differences.csv"
    ]


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


PIXELS_PER_INCH = 96


def page(document: Document, folder: Path) -> str:
    """The page, with the SVG pictures that `folder` holds. All text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prunekit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    shown = [
        {
            "title": picture.title,
            "caption": picture.caption,
            "width": round(picture.figure.get_figwidth() * PIXELS_PER_INCH),
            "svg": base64.b64encode((folder / f"{picture.name}.svg").read_bytes()).decode(),
        }
        for picture in document.pictures
    ]
    return environment.get_template("page.html.j2").render(document=document, pictures=shown)
