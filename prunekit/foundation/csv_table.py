"""A CSV file of a user as columns and rows of text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.files import open_regular

MAX_BYTES = 10_000_000


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns, and a mapping of them for each row.

    Raises:
        UsageError: one line: it cannot be read, has no header and rows, or a row does not fit.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"{path}: {reason}: give a CSV file with a header") from None
    try:
        table = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise UsageError(f"{path}: no CSV file: {error}") from None
    if len(data) > MAX_BYTES or len(table) < 2 or len(table[0]) < 2:
        raise UsageError(f"{path}: give a CSV file with a header, two columns or more, and rows")
    header = [name.strip() for name in table[0]]
    for line, row in enumerate(table, start=1):
        if len(row) != len(header) or len(set(header)) < len(header):
            raise UsageError(f"{path}: row {line} does not fit the header")
    return header, [dict(zip(header, map(str.strip, row), strict=True)) for row in table[1:]]
