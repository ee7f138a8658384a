"""Few rows in which every two values of two axes meet at least once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations

Axes = Mapping[str, Sequence[str]]
Row = dict[str, str]
Pair = frozenset[tuple[str, str]]
TRIES = 40


def pairs_of(row: Mapping[str, str]) -> set[Pair]:
    """Every two of the values of a row."""
    return {frozenset(two) for two in combinations(row.items(), 2)}


def all_pairs(axes: Axes) -> set[Pair]:
    """Every two values of two axes."""
    return {
        frozenset(((a, x), (b, y)))
        for a, b in combinations(axes, 2)
        for x in axes[a]
        for y in axes[b]
    }


def pairwise(
    axes: Axes,
    first: Iterable[Axes],
    more: Callable[[int], Axes],
    seed: int = 0,
) -> Iterator[Row]:
    """The `first` rows, then as many more as pairs are left.

    Greedy: of `TRIES` draws the one with most pairs that were not there yet.

    Args:
        axes: name -> its values.
        first: of each of these rows, the values that an axis is limited to.
        more: the same of the n-th row after those, from 0.
        seed: of the draws; the same rows for the same seed.
    """
    rng, left = random.Random(seed), all_pairs(axes)

    def row(given: Axes) -> Row:
        draws = [_drawn(rng, axes, given, left) for _ in range(TRIES)]
        best = max(draws, key=lambda one: len(pairs_of(one) & left))
        left.difference_update(pairs_of(best))
        return best

    yield from (row(given) for given in first)
    number = 0
    while left:
        before = len(left)
        yield row(more(number))
        number += 1
        if len(left) == before and number > len(all_pairs(axes)):
            raise ValueError(f"no row that is allowed has {sorted(map(sorted, left))}")


def _drawn(rng: random.Random, axes: Axes, limits: Axes, left: set[Pair]) -> Row:
    """A random row with a pair in it that is wanted, where the limits leave one."""
    allowed = {axis: limits.get(axis, values) for axis, values in axes.items()}
    fits = [pair for pair in left if all(value in allowed[axis] for axis, value in pair)]
    wanted = dict(rng.choice(sorted(fits, key=sorted))) if fits else {}
    return {axis: wanted.get(axis) or rng.choice(list(some)) for axis, some in allowed.items()}
