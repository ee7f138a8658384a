"""A share that was counted, with the interval that so few say. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
"""Confidence of the interval."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `count`, 0 <= hits <= count."""

    hits: int
    count: int

    @property
    def share(self) -> float | None:
        """In [0, 1]; None of nothing."""
        return self.hits / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval at `LEVEL`, in [0, 1]; None of nothing.

        The shares p that the count does not speak against: |hits / count - p| is at most z
        standard errors of p itself. It holds near 0 and 1 too, where p +- z standard errors of the
        share found does not (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927).
        """
        if not self.count:
            return None
        z, n, share = NormalDist().inv_cdf((1 + LEVEL) / 2), self.count, self.hits / self.count
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        low = 0.0 if self.hits == 0 else middle - half
        return low, 1.0 if self.hits == n else middle + half

    def document(self) -> dict[str, float | int | None]:
        """As plain values: `value`, `low`, `high`, `hits`, `of`."""
        low, high = self.interval or (None, None)
        return {
            "value": self.share,
            "low": low,
            "high": high,
            "hits": self.hits,
            "of": self.count,
        }
