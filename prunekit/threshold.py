"""The value of a rank in a pool of tensors, without sorting or joining them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prunekit.pools import Pool, pool_of
from prunekit.scores import Key

WHOLE = 1 << 15
"""Entries of a pool that is searched without a bracket."""
PER_SAMPLE, SAMPLES = 128, 1 << 15
"""One entry in so many is drawn to guess a bracket, at most so many in all."""
SPREADS = (3.0, 32.0)
"""Half-widths of the brackets tried, in standard deviations of the rank in the sample."""
NEAR = 0.01
"""Half-width of the bracket around a hint, as a part of the hint."""


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
    for low, high in _brackets(pool, keep, hint):
        above, inside = pool.split(low, high)
        if torch.isnan(inside).any():
            raise ValueError("a score is NaN")
        if above < keep <= above + inside.numel():
            return pool.largest(inside, keep - above)
        edge = high if keep <= above else low
        over, at = pool.count(edge)
        if over < keep <= over + at:
            return edge
    raise AssertionError("the last bracket holds every value")


def _brackets(pool: Pool, keep: int, hint: float | None) -> Iterator[tuple[float, float]]:
    """Pairs low <= high to look between, ever wider; the last holds every value."""
    if hint:
        yield pool.rounded(hint - NEAR * abs(hint)), pool.rounded(hint + NEAR * abs(hint))
    if pool.size > WHOLE:
        drawn = min(SAMPLES, pool.size // PER_SAMPLE)
        sample, share = pool.sample(drawn), 1 - keep / pool.size
        for spread in SPREADS:
            reach = spread * (share * (1 - share) / drawn) ** 0.5 + 2 / drawn
            first, last = (int(drawn * (share + side)) for side in (-reach, reach))
            low = float(sample[first]) if first > 0 else float("-inf")
            yield low, float(sample[last]) if last < drawn else float("inf")
    yield float("-inf"), float("inf")
