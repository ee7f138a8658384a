"""A report on the disk."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.files import cannot_write, replacing
from prunekit.foundation.text import escaped, printable
from prunekit.report.document import Comparison, Picture, Report
from prunekit.report.figures.hover import points_as_json
from prunekit.report.figures.style import save
from prunekit.report.spreadsheet import cell_rows, difference_rows, run_rows, write_csv
from prunekit.report.tables import Table

if TYPE_CHECKING:
    from markupsafe import Markup


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the pictures, `report.md` and `index.html`, each in one piece.

    Raises:
        WriteError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    drawn = [path for one in report.pictures for path in save(one.figure, folder, one.name)]
    texts = {"index.html": page(report, folder), "report.md": markdown(report)}
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
        "cells.csv": cell_rows(found.study, found.key, found.published),
        "differences.csv": difference_rows(found.study, found.differences),
    }
    return [
        write_csv(folder / name, rows)
        for name, rows in tables.items()
        if rows or name != "differences.csv"
    ]


def markdown(report: Report) -> str:
    """The whole report; pictures are links to the files beside it."""
    parts = [f"# {escaped(report.title)}", escaped(report.conditions)]
    parts += [markdown_list(report.notices, bold=True)]
    parts += [markdown_table(one) for one in report.tables]
    parts += [markdown_picture(one) for one in report.pictures]
    if report.missing:
        parts += ["## Missing or left out", markdown_list(report.missing)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(one: Table) -> str:
    """A heading, the rows, the note."""
    align = [":--" if i < one.words else "--:" for i in range(len(one.columns))]
    rows = [one.columns, tuple(align), *one.rows]
    lines = [markdown_row(row) if row is not rows[1] else "|" + "|".join(row) + "|" for row in rows]
    return "\n".join([f"## {escaped(one.title)}", "", *lines, "", escaped(one.note)]).rstrip()


def markdown_row(row: Sequence[str]) -> str:
    """One row."""
    return "| " + " | ".join(escaped(text) for text in row) + " |"


def markdown_list(lines: Sequence[str], bold: bool = False) -> str:
    """A list."""
    mark = "**" if bold else ""
    return "\n".join(f"- {mark}{escaped(text)}{mark}" for text in lines)


def markdown_picture(one: Picture) -> str:
    """A heading, the picture, what it shows."""
    link = f"![{escaped(one.title)}]({one.name}.png)"
    return f"## {escaped(one.title)}\n\n{link}\n\n{escaped(one.told)}"


SMALLEST = 80
"""Pixels that an inch of a picture has at least on a narrow screen, where it scrolls."""


def page(report: Report, folder: Path) -> str:
    """The page, with the SVG pictures that `folder` holds. All text is escaped.

    The one script is the package's own, and the policy of the page names its hash: no other runs.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("prunekit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=without_controls,
    )
    environment.filters["coded"] = coded
    pictures = [
        {
            "title": picture.title,
            "caption": picture.told,
            "least": round(picture.figure.get_figwidth() * SMALLEST),
            "points": points_as_json(picture.figure),
            "svg": base64.b64encode((folder / f"{picture.name}.svg").read_bytes()).decode(),
        }
        for picture in report.pictures
    ]
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        report=report, pictures=pictures, script=Markup(script), script_hash=f"sha256-{digest}"
    )


def without_controls(value: Any) -> Any:
    """What a page holds in place of a value: of text that is no markup yet, what is `printable`."""
    from markupsafe import Markup

    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if plain else value


def coded(text: str) -> Markup:
    """Escaped, and what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in printable(str(text)).split("`")]
    if len(parts) % 2 == 0:  # one backtick has no other: then all of them are text
        return Markup("`").join(parts)
    shown = (Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))
    return Markup("").join(shown)
