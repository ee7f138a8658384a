"""`metrics.jsonl`: what every run has, and what reports are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from prunekit.foundation.files import read_lines, replacing
from prunekit.loggers.base import LoggedRun, Logger

METRICS_FILE = "metrics.jsonl"


class Lines(Logger):
    """One JSON object a line: `step`, then tag -> number, null where it is not finite."""

    def __init__(self) -> None:
        """It has no settings, and no name in a recipe."""

    def open(self, run: LoggedRun) -> None:
        """Drop what came after the checkpoint, and append."""
        path = run.path / METRICS_FILE
        if run.resume_step is not None and path.exists():
            kept = [line for line in read_lines(path) if line["step"] <= run.resume_step]
            with replacing(path) as temporary:
                temporary.write_text(
                    "".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8"
                )
        # unbuffered: a kill loses no whole line, and a full disk leaves nothing to flush at exit
        self._file = path.open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self._file.write((json.dumps({"step": step, **finite}) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
