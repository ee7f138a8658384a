"""`metrics.jsonl`: what every run has, and what reports are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunekit.foundation.files import replacing
from prunekit.foundation.json_lines import each_line
from prunekit.loggers.base import LoggedRun, Logger

METRICS_FILE = "metrics.jsonl"


class Lines(Logger):
    """One JSON object a line: `step`, then tag -> number, null where it is not finite."""

    def __init__(self) -> None:
        """It has no settings, and no name in a recipe."""
        self.written = 0
        """Lines that count, those of before a resume included."""

    def open(self, run: LoggedRun) -> None:
        """Drop what came after the checkpoint, and append."""
        self._path = path = run.path / METRICS_FILE
        if run.resume_step is not None and path.exists():
            last = run.resume_step
            self._rewrite(lambda line: line["step"] <= last)
        self._append_to(path)

    def keep(self, written: int) -> None:
        """Drop what stands behind so many lines: the checkpoint was saved before it was logged.

        Steps alone do not tell: the last evaluation has that of the last checkpoint.
        """
        if written < self.written:
            self._file.close()
            self._rewrite(lambda line: self.written < written)
            self._append_to(self._path)

    def _rewrite(self, counts: Callable[[dict[str, Any]], bool]) -> None:
        """Leave the lines that count: one by one, as there may be more of them than memory."""
        self.written = 0
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            for line in each_line(self._path):
                if line is not None and counts(line):
                    file.write((json.dumps(line) + "\n").encode())
                    self.written += 1

    def _append_to(self, path: Path) -> None:
        # unbuffered: a kill loses no whole line, and a full disk leaves nothing to flush at exit
        self._file = path.open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self._file.write((json.dumps({"step": step, **finite}) + "\n").encode())
        self.written += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()
