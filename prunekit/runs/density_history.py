"""The density of each layer over the steps of a run, as its log has it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.runs.logged import Logged

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


def density_history(log: Logged) -> DensityHistory | None:
    """Read it from what was logged; None where no mask was decided."""
    tags = [tag for tag in log.keys if tag.startswith(DENSITY)]
    rows = {tag.removeprefix(DENSITY): log.columns(tag) for tag in tags}
    rows = {name: row for name, row in rows.items() if len(row[0])}
    if not rows:
        return None
    steps = np.unique(np.concatenate([at for at, _ in rows.values()]))
    shares = np.stack([_held(*row, steps) for row in rows.values()])
    return DensityHistory(tuple(rows), steps, shares)


def _held(at: np.ndarray, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Values at steps, each held until the next; float64 [steps], NaN before the first."""
    place = np.searchsorted(at, steps, side="right") - 1
    held: np.ndarray = np.where(place < 0, np.nan, values[place])
    return held
