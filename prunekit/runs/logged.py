"""What a run logged, a column for each key: 16 bytes a number, however long the run. Torch-free."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.json_lines import each_line

if TYPE_CHECKING:
    import numpy as np

EMPTY: tuple[array[int], array[float]] = (array("q"), array("d"))
Points = list[tuple[int, float]]


class Logged:
    """The numbers of `metrics.jsonl` by key."""

    def __init__(self, lines: Iterable[Mapping[str, Any] | None] = ()) -> None:
        """Take lines in order; None is one that could not be read."""
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        self._not_finite: Counter[str] = Counter()
        self.last = 0
        """The highest step of any line."""
        self.lost = 0
        """Lines that could not be read."""
        for line in lines:
            if line is None:
                self.lost += 1
            else:
                self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        step = line["step"]
        self.last = max(self.last, step)
        for key, value in line.items():
            if key == "step":
                continue
            if key not in self._columns:
                self._columns[key] = array("q"), array("d")
            if isinstance(value, int | float):
                steps, values = self._columns[key]
                steps.append(step)
                values.append(value)
            elif value is None:
                self._not_finite[key] += 1

    def __bool__(self) -> bool:
        """Whether anything was logged."""
        return bool(self._columns)

    @property
    def keys(self) -> tuple[str, ...]:
        """Each key, in the order in which they were first logged."""
        return tuple(self._columns)

    def has(self, key: str) -> bool:
        """Whether a value of this key was finite."""
        return bool(self._columns.get(key, EMPTY)[0])

    def series(self, key: str) -> Points:
        """(optimizer steps done, value) in order; a step whose value was not finite is left out."""
        steps, values = self._columns.get(key, EMPTY)
        return list(zip(steps, values, strict=True))

    def columns(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Rising steps, int64 [n], and the value that was logged last at each, float64 [n]."""
        import numpy as np

        steps, values = (np.array(column) for column in self._columns.get(key, EMPTY))
        order = np.argsort(steps, kind="stable")
        last = np.append(np.diff(steps[order]) > 0, True)[: len(order)]
        return steps[order][last], values[order][last]

    def not_finite(self, key: str) -> int:
        """How many values of a key were not finite."""
        return self._not_finite[key]


def read_logged(path: Path) -> Logged:
    """Read a `metrics.jsonl`, line by line.

    Raises:
        OSError: it cannot be read.
    """
    return Logged(each_line(path))
