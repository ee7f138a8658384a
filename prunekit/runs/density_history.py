"""The density of each layer over the steps of a run, as its log has it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DENSITY = "density/"
"""What the tag of a tensor's density begins with."""


@dataclass(frozen=True, slots=True)
class DensityHistory:
    """Which share of each tensor was kept when."""

    names: tuple[str, ...]
    """The tensors, in the order of the model."""
    steps: np.ndarray
    """int64 [changes], rising: the steps at which masks were decided."""
    shares: np.ndarray
    """float64 [tensors, changes]: density from that step on; NaN where it is not known yet."""

    def every(self, columns: int, last: int) -> np.ndarray:
        """float64 [tensors, columns]: densities at steps evenly apart, 0 to `last`."""
        at = np.linspace(0, max(last, int(self.steps[-1])), columns)
        place = np.searchsorted(self.steps, at, side="right") - 1
        found: np.ndarray = np.where(place < 0, np.nan, self.shares[:, np.maximum(place, 0)])
        return found


def density_history(lines: Iterable[Mapping[str, Any]]) -> DensityHistory | None:
    """Read it from the lines of `metrics.jsonl`; None where no mask was decided."""
    rows: dict[str, dict[int, float]] = {}
    for line in lines:
        for tag, value in line.items():
            if tag.startswith(DENSITY) and isinstance(value, int | float):
                rows.setdefault(tag.removeprefix(DENSITY), {})[int(line["step"])] = float(value)
    if not rows:
        return None
    steps = sorted({step for row in rows.values() for step in row})
    shares = np.full((len(rows), len(steps)), np.nan)
    for number, row in enumerate(rows.values()):
        held = np.nan
        for place, step in enumerate(steps):
            held = row.get(step, held)
            shares[number, place] = held
    return DensityHistory(tuple(rows), np.array(steps), shares)
