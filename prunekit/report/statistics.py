"""What a few seeds can tell: means, paired differences, and what they could not have shown.

The distribution of Student's t is integrated over that of the estimated deviation, which gives the
quantiles of an interval and the exact power of a test alike. Torch-free.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL = 0.95
"""Confidence of every interval; tests are two-sided at 1 - LEVEL."""
POWER = 0.8
"""Chance with which a smallest detectable difference would have been found."""
FEWEST_PAIRS = 6
"""With fewer no sign test can reach 5 %: 2 / 2^5 = 0.0625."""
MANY = 10_000
"""From so many seeds on the normal distribution is exact enough."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one sample: its size, mean and deviation."""

    count: int
    mean: float
    deviation: float | None
    """Standard deviation with n - 1; None for a single value."""


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and standard deviation; None of nothing."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(len(values), statistics.fmean(values), deviation)


NO_SPREAD = 1e-9
"""A deviation below it is rounding."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Of pairs that share a seed: what the difference is and what could have been seen."""

    count: int
    mean: float
    deviation: float | None
    """Standard deviation (n - 1) of the differences; None for one pair."""
    interval: tuple[float, float] | None
    """Student's t interval of the mean at `LEVEL`; None, as the next two, for one pair and where
    all pairs agree, from which nothing follows."""
    detectable: float | None
    """Smallest true difference that a t test of so many pairs finds with `POWER`, were the true
    deviation the one observed."""
    seeds_for_target: int | None
    """Pairs with which a true difference of `target` would be found with `POWER`."""
    sign_p: float | None
    """Two-sided sign test; None with fewer than `FEWEST_PAIRS` pairs that differ."""


def paired_difference(differences: Sequence[float], target: float = 0.5) -> PairedDifference | None:
    """Judge the differences of pairs.

    Args:
        differences: one number a pair, in any unit.
        target: a difference of interest in the same unit, above 0.

    Returns:
        None of nothing.
    """
    found = summary(differences)
    if found is None:
        return None
    n, sd, sign = found.count, found.deviation, sign_test(differences)
    if sd is None or sd < NO_SPREAD:
        return PairedDifference(n, found.mean, sd, None, None, None, sign)
    half = t_quantile((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n)
    return PairedDifference(
        count=n,
        mean=found.mean,
        deviation=sd,
        interval=(found.mean - half, found.mean + half),
        detectable=detectable_shift(n) * sd / math.sqrt(n),
        seeds_for_target=pairs_needed(target / sd),
        sign_p=sign,
    )


def sign_test(differences: Sequence[float]) -> float | None:
    """Two-sided binomial p of as lopsided a count of signs; ties are left out.

    Returns:
        None where fewer than `FEWEST_PAIRS` differ: too few for a verdict.
    """
    above = sum(value > 0 for value in differences)
    below = sum(value < 0 for value in differences)
    n = above + below
    if n < FEWEST_PAIRS:
        return None
    ways = sum(math.comb(n, k) for k in range(min(above, below) + 1))
    return float(min(1.0, 2 * ways / 2**n))


def t_cdf(x: float, df: int, shift: float = 0.0) -> float:
    """P(T <= x) of the t distribution; noncentral by `shift`.

    T = (Z + shift) / S with Z standard normal and S = sqrt(chi2(df) / df), so that
    P(T <= x) is the mean of Phi(x S - shift) over S.

    Args:
        x: the upper end.
        df: degrees of freedom, 1 or more.
        shift: the noncentrality, in standard errors of the mean.
    """
    nodes, weights = _scales(df)
    return float(weights @ _normal_cdf(x * nodes - shift))


@cache
def t_quantile(probability: float, df: int) -> float:
    """The x with P(T <= x) = `probability`, in [0.5, 0.999]; by bisection of `t_cdf`."""
    return _root(lambda x: t_cdf(x, df) - probability, 1.0)


def power(shift: float, df: int) -> float:
    """Chance that a two-sided t test at 1 - LEVEL finds a mean of `shift` standard errors."""
    critical = t_quantile((1 + LEVEL) / 2, df)
    return 1 - t_cdf(critical, df, shift) + t_cdf(-critical, df, shift)


@cache
def detectable_shift(pairs: int) -> float:
    """Standard errors that the true mean of `pairs` (2 or more) must be away from 0 for `POWER`.

    The usual short cut, t(0.975) + t(0.8), says 14 % less for two pairs and 5 % less for three.
    """
    return _root(lambda shift: power(shift, pairs - 1) - POWER, 4.0)


def pairs_needed(effect: float) -> int:
    """Fewest pairs, 2 or more, that find a mean of `effect` standard deviations with `POWER`.

    The count for a known deviation, ((z(0.975) + z(0.8)) / effect)^2, is a lower bound.
    """
    normal = statistics.NormalDist()
    shift = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    pairs = max(2, math.floor((shift / effect) ** 2))
    while pairs < MANY and power(effect * math.sqrt(pairs), pairs - 1) < POWER:
        pairs += 1
    return pairs


@cache
def _gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)


@cache
def _scales(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes S and weights that sum to 1 under the density of sqrt(chi2(df) / df)."""
    reach = 9 / math.sqrt(2 * df)
    low, high = max(0.0, 1 - reach), 1 + reach
    nodes, weights = _gauss(300 if df < 12 else 64)
    nodes = low + (nodes + 1) / 2 * (high - low)
    density = np.exp((df - 1) * np.log(nodes) - df * (nodes**2 - 1) / 2)
    weights = weights * density
    return nodes, weights / weights.sum()


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


def _root(rises: Callable[[float], float], high: float) -> float:
    """Where an increasing function of x >= 0 crosses 0."""
    low = 0.0
    while rises(high) < 0:
        low, high = high, 2 * high
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return high
