"""The value of a rank in a pool of tensors, without sorting or joining them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prunekit.pools import Pool, pool_of
from prunekit.scores import Key

WHOLE = 1 << 15
"""Entries of a pool that is searched without a bracket."""
PER_SAMPLE, SAMPLES = 128, 1 << 14
"""One entry in so many is drawn to guess a bracket, at most so many in all."""
SPREADS = (3.0, 32.0)
"""Half-widths of the brackets tried, in standard deviations of the rank in the sample."""
NEAR = 0.01
"""Half-width of the bracket around a hint, as a part of the hint."""
MOST_INSIDE = 16
"""One entry in so many may lie in a bracket; else, as with many equal ones, the next is tried."""


def find_threshold(
    scores: Sequence[Tensor], keep: int, hint: float | None = None, key: Key | None = None
) -> float:
    """The `keep`-th largest of all entries of `scores`.

    A bracket around it comes from `hint` or from a sample. One pass counts what lies above and
    collects the little that lies inside. A bracket that misses costs a pass, never the exactness.
    Extra memory is a block and the inside: less than 0.5 byte an entry.

    Args:
        scores: floating point tensors of any shapes, on one device.
        keep: rank, in 1 .. the number of entries.
        hint: a value that should be near, such as the last update's threshold.
        key: makes the entries from those of `scores`, a block at a time.

    Raises:
        ValueError: an entry is NaN or not floating point, or there is no such rank.
    """
    pool = pool_of(scores, key)
    if not 1 <= keep <= pool.size:
        raise ValueError(f"rank {keep} is not in 1 .. {pool.size}")
    return search(pool, keep, hint)


def search(pool: Pool, keep: int, hint: float | None = None) -> float:
    """`find_threshold` in a pool."""
    if hint:
        reach = NEAR * abs(hint)
        value = _between(pool, keep, pool.rounded(hint - reach), pool.rounded(hint + reach))
        if value is not None:
            return value
    for low, high in _brackets(pool, keep):
        value = _between(pool, keep, low, high)
        if value is not None:
            return value
        for edge in {low, high}:  # where many entries are equal, it may be an edge itself
            over, at = pool.count(edge)
            if over < keep <= over + at:
                return edge
    raise AssertionError("the last bracket holds every value")


def _between(pool: Pool, keep: int, low: float, high: float) -> float | None:
    """The value of the rank, if it lies between and not too many do."""
    everything = low == -math.inf and high == math.inf
    most = pool.size if everything else max(WHOLE, pool.size // MOST_INSIDE)
    found = pool.split(low, high, most)
    if found is None:
        return None
    above, inside = found
    if torch.isnan(inside).any():
        raise ValueError("a score is NaN")
    return pool.largest(inside, keep - above) if above < keep <= above + len(inside) else None


def _brackets(pool: Pool, keep: int) -> Iterator[tuple[float, float]]:
    """Pairs low <= high to look between, ever wider; the last holds every value."""
    if pool.size > WHOLE:
        drawn = min(SAMPLES, pool.size // PER_SAMPLE)
        sample, share = pool.sample(drawn), 1 - keep / pool.size
        for spread in SPREADS:
            reach = spread * (share * (1 - share) / drawn) ** 0.5 + 2 / drawn
            first, last = (int(drawn * (share + side)) for side in (-reach, reach))
            low = float(sample[first]) if first > 0 else -math.inf
            yield low, float(sample[last]) if last < drawn else math.inf
    yield -math.inf, math.inf
