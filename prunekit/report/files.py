"""A report on the disk."""

from __future__ import annotations

from pathlib import Path

from prunekit.foundation.files import cannot_write, replacing
from prunekit.report.compose import Comparison
from prunekit.report.document import Document
from prunekit.report.markdown import markdown
from prunekit.report.page import page
from prunekit.report.spreadsheet import cell_rows, difference_rows, run_rows, write_csv
from prunekit.report.style import save


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
