"""`metrics.csv`: the scalars as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prunekit.foundation.files import replacing
from prunekit.foundation.text import printable
from prunekit.loggers.base import LoggedRun, Logger
from prunekit.registry.configs import LoggerConfig

CSV_FILE = "metrics.csv"
Row = dict[str, str]


class CsvFile(Logger):
    """Write metrics.csv: a row a step, a column a tag, empty where nothing was logged.

    A resumed run drops the rows after its checkpoint.
    """

    class Config(LoggerConfig):
        """Settings of csv."""

        name: Literal["csv"]

    def open(self, run: LoggedRun) -> None:
        """Read what is there of an earlier part of the run."""
        self._path: Path = run.path / CSV_FILE
        self._columns, self._last = ["step"], Row()
        rows: list[Row] = []
        if run.resume_step is not None and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                whole = (row for row in reader if None not in row.values())  # one cut short is not
                rows = [row for row in whole if int(row["step"]) <= run.resume_step]
        self._write(rows)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The row is written at once; one that has the step of the last takes its place."""
        same = self._last.get("step") == str(step)
        row = {**(self._last if same else {}), "step": str(step)}
        row |= {printable(tag): repr(value) for tag, value in values.items()}
        if new := [tag for tag in row if tag not in self._columns]:
            self._columns += new
            with self._path.open(newline="", encoding="utf-8") as file:
                rows: list[Row] = list(csv.DictReader(file))
            self._file.close()
            self._write([*(rows[:-1] if same else rows), row])
            return
        if same:
            os.ftruncate(self._file.fileno(), self._begin)
        self._append(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, rows: list[Row]) -> None:
        """The whole table anew, with the columns that are known by now."""
        with replacing(self._path) as temporary:
            text = "".join(map(self._line, [{key: key for key in self._columns}, *rows[:-1]]))
            temporary.write_text(text, encoding="utf-8")
        # unbuffered: a kill loses no row that was written
        self._file = self._path.open("ab", buffering=0)
        if rows:
            self._append(rows[-1])

    def _append(self, row: Row) -> None:
        self._begin, self._last = os.fstat(self._file.fileno()).st_size, row
        self._file.write(self._line(row).encode())

    def _line(self, row: Row) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue()
