"""Files of one JSON object with a `step` a line, of any length. Torch-free."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prunekit.foundation.files import is_sane, open_regular

LAST_STEP = 2**63
"""No step is so large: columns of steps are int64."""


def each_line(path: Path) -> Iterator[dict[str, Any] | None]:
    """Read line by line; None for one that cannot be read, as where a kill cut it short.

    Raises:
        OSError: the file cannot be read.
    """
    names: dict[str, str] = {}  # each line would have its own copy of each name
    with io.TextIOWrapper(open_regular(path), "utf-8", "replace") as file:
        for text in file:
            line: Any = None
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
            if _is_line(line):
                yield {names.setdefault(name, name): value for name, value in line.items()}
            else:
                yield None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines that can be read.

    Raises:
        OSError: the file cannot be read.
    """
    return [line for line in each_line(path) if line is not None]


def _is_line(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and type(line.get("step")) is int
        and 0 <= line["step"] < LAST_STEP
        and is_sane(line)
    )
