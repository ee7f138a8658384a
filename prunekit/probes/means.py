"""Means over the steps of a run, kept on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Means:
    """Means of a vector over the steps since the last record, and over all steps.

    The sum over all steps is that of the closed windows: so the running mean is the mean of the
    window means, weighted by their lengths.
    """

    def __init__(self) -> None:
        self._window, self._steps_in_window = Tensor(), 0
        self._total, self._steps = Tensor(), 0

    def add(self, values: Tensor) -> None:
        """One more step: its values, float64, on any device."""
        self._window = _sum(self._window, values)
        self._steps_in_window += 1

    def record(self) -> tuple[Tensor, Tensor]:
        """Close the window: its mean, and the mean over all steps. Needs a step since the last."""
        window, self._total = self._window, _sum(self._total, self._window)
        steps, self._steps = self._steps_in_window, self._steps + self._steps_in_window
        self._window, self._steps_in_window = Tensor(), 0
        return window / steps, self._total / self._steps

    def state_dict(self) -> dict[str, Any]:
        """The sums, on the CPU."""
        return {
            "window": self._window.cpu(),
            "steps_in_window": self._steps_in_window,
            "total": self._total.cpu(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding."""
        self._window, self._steps_in_window = state["window"], state["steps_in_window"]
        self._total, self._steps = state["total"], state["steps"]


def _sum(before: Tensor, values: Tensor) -> Tensor:
    """`before`, which is empty before the first, plus `values`, on their device."""
    return before.to(values.device) + values if before.numel() else values
