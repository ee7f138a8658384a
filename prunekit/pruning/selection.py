"""Exactly the best entries, ties to the lowest index."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from prunekit.foundation.warn import warn_once
from prunekit.pruning.scores import Cut, Key, ScorePool, Scores, count_true, pool_of, sizes_of

NEAR_RANK = 0.0025
"""Share of the entries by which a count may differ so that its threshold is still a hint: at 90 %
of normal weights, the magnitude changes by 1 % then."""


def keep_count(n: int, sparsity: float, min_keep: int = 0) -> int:
    """How many of `n` units are kept: n - floor(sparsity * n + 1/2), in exact arithmetic.

    Args:
        n: units in all.
        sparsity: fraction to prune, read as the decimal number that it prints as, so that 0.29 of
            50 is 14.5 and not a little less; values outside [0, 1] count as the nearest end.
        min_keep: units kept whatever `sparsity` says; at most n count.
    """
    prune = (Fraction(repr(float(sparsity))) * n + Fraction(1, 2)).__floor__()
    return n - max(0, min(prune, n - min(min_keep, n)))


def top_mask(score: Tensor, keep: int) -> Tensor:
    """True at exactly the `keep` highest scores; ties go to the lowest flat index.

    Args:
        score: floating point, any shape; infinities are allowed, -0.0 equals 0.0.
        keep: in 0 .. score.numel().

    Raises:
        ValueError: `score` holds a NaN or whole numbers, or `keep` is out of range.
    """
    return top_masks_global({"score": score}, keep)["score"]


def top_masks_global(
    scores: Mapping[str, Tensor], keep: int, floor: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Bool masks with exactly `keep` True in all: the highest of one pool; ties by (name, index).

    Args:
        scores: name -> floating point tensor of any shape, all on one device.
        keep: from the sum of the floors to the number of entries.
        floor: name -> entries that the tensor keeps at least, whatever the others score; a tensor
            below its floor is raised to it, and the others give up as many.

    Raises:
        ValueError: a score is NaN or not floating point, or `keep` is out of range.
    """
    scores, sizes = Scores.of(scores), sizes_of(scores)
    floor = {name: min(n, sizes[name]) for name, n in (floor or {}).items() if n}
    least, most = sum(floor.values()), sum(sizes.values())
    if not least <= keep <= most:
        raise ValueError(f"keep {keep} is not in {least} .. {most}: the floors, and all entries")
    masks, held = _best_of_pool(scores, keep), dict[str, Tensor]()
    while low := [n for n in floor if n in masks and count_true(masks[n]) < floor[n]]:
        held |= {name: top_mask(scores[name], floor[name]) for name in low}
        rest = {name: tensor for name, tensor in scores.tensors.items() if name not in held}
        fewer = keep - sum(floor[name] for name in held)
        masks = _best_of_pool(Scores(rest, scores.key), fewer)
    warn_held(held)
    masks |= held
    return {name: masks[name] for name in scores}


def warn_held(names: Iterable[str]) -> None:
    """Say which tensors `min_keep` holds above what the distribution gives them."""
    if line := ", ".join(sorted(names)):
        warn_once(f"min_keep holds, else these would keep fewer units: {line}")


def _best_of_pool(scores: Scores, keep: int) -> dict[str, Tensor]:
    names = sorted(scores)
    pool = pool_of([scores.tensors[name] for name in names], scores.key)
    if keep in (0, pool.size):
        return _all_or_none(scores, bool(keep))
    edge = search(pool, keep, _hint(scores.cut, keep, pool.size))
    scores.cut = Cut(keep, edge)
    masks, kept = pool.at_least(edge)
    pool.drop_last_ties(masks, edge, kept - keep)
    shapes = [scores.tensors[name].shape for name in names]
    return {n: m.view(shape) for n, m, shape in zip(names, masks, shapes, strict=True)}


def _hint(cut: Cut | None, keep: int, size: int) -> float | None:
    """The last threshold, unless so much more or less is kept now that it must have moved."""
    return cut.threshold if cut and abs(keep - cut.keep) <= NEAR_RANK * size else None


def _all_or_none(scores: Mapping[str, Tensor], kept: bool) -> dict[str, Tensor]:
    for name, score in scores.items():
        if torch.isnan(score).any():
            raise ValueError(f"{name}: a score is NaN")
    return {n: torch.full_like(score, kept, dtype=torch.bool) for n, score in scores.items()}


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


def search(pool: ScorePool, keep: int, hint: float | None = None) -> float:
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


def _between(pool: ScorePool, keep: int, low: float, high: float) -> float | None:
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


def _brackets(pool: ScorePool, keep: int) -> Iterator[tuple[float, float]]:
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
