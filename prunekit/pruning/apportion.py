"""Split a whole number over shares, exactly and without paradox. Imports no torch."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from fractions import Fraction
from math import lcm


def apportion(
    total: int,
    weights: Mapping[str, Fraction | int],
    caps: Mapping[str, int],
    floors: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Split `total` in proportion to `weights` by the Sainte-Lague divisor method.

    Seat k of a name (k = 0, 1, ..) has the price (k + 1/2) / weight. After every name has its floor
    the cheapest seats are given out, ties by name, none beyond a cap. A larger total therefore
    never takes a seat away, as the largest-remainder method does: masks stay nested.

    Args:
        total: seats to give, from the sum of the floors to the sum of the caps.
        weights: name -> claim >= 0; names without a claim come last, in their order.
        caps: name -> most seats.
        floors: name -> fewest seats, at most the cap; None means 0.

    Returns:
        name -> seats; they sum to `total`.
    """
    scale = lcm(*(Fraction(w).denominator for w in weights.values()))
    claims = {name: int(weights[name] * scale) for name in sorted(weights)}
    low = {name: (floors or {}).get(name, 0) for name in claims}
    counts = _given_below(total, claims, caps, low)
    left = total - sum(counts.values())
    queue = [(_price(counts[n], claims[n]), n) for n in claims if claims[n] and counts[n] < caps[n]]
    heapq.heapify(queue)
    while left and queue:
        _, name = heapq.heappop(queue)
        counts[name] += 1
        left -= 1
        if counts[name] < caps[name]:
            heapq.heappush(queue, (_price(counts[name], claims[name]), name))
    for name in (name for name in claims if not claims[name]):
        extra = min(left, caps[name] - counts[name])
        counts[name] += extra
        left -= extra
    return {name: counts[name] for name in weights}


def _price(seat: int, claim: int) -> Fraction:
    return Fraction(2 * seat + 1, 2 * claim)


def _given_below(
    total: int, claims: Mapping[str, int], caps: Mapping[str, int], floors: Mapping[str, int]
) -> dict[str, int]:
    """Seats at the highest price found at which no more than `total` are given out."""

    def given(price: Fraction) -> dict[str, int]:
        num, den = price.numerator, price.denominator
        return {
            name: max(floors[name], min(caps[name], (2 * num * claim + den) // (2 * den)))
            for name, claim in claims.items()
        }

    low, high = Fraction(0), max((_price(caps[n], c) for n, c in claims.items() if c), default=0)
    counts = given(Fraction(high))
    if sum(counts.values()) <= total:
        return counts
    counts = given(low)
    # a price has at most one seat of each name, so the bracket always gets that narrow
    while total - sum(counts.values()) > len(claims):
        middle = (low + high) / 2
        tried = given(middle)
        if sum(tried.values()) > total:
            high = middle
        else:
            low, counts = middle, tried
    return counts
