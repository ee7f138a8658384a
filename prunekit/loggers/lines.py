"""`metrics.jsonl`: what every run has, and what reports are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunekit.foundation.files import read_lines, write_text
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
            self._rewrite([line for line in read_lines(path) if line["step"] <= run.resume_step])
        self._append_to(path)

    def keep(self, written: int) -> None:
        """Drop what stands behind so many lines: the checkpoint was saved before it was logged.

        Steps alone do not tell: the last evaluation has that of the last checkpoint.
        """
        if written < self.written:
            self._file.close()
            self._rewrite(read_lines(self._path)[:written])
            self._append_to(self._path)

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self.written = len(lines)

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
