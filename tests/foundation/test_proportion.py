"""Wilson's interval against the equation that defines it."""

import math

import pytest
from hypothesis import given, strategies as st

from prunekit.foundation.proportion import Proportion

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution, from a table."""


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_both_ends_are_z_standard_errors_of_their_own_away(counts):
    hits, count = counts
    found = Proportion(hits, count)
    low, high = found.interval
    assert 0 <= low <= found.share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        away = abs(hits / count - end)
        assert away == pytest.approx(Z * math.sqrt(end * (1 - end) / count), rel=1e-6, abs=1e-9)


def test_worked_by_hand():
    low, high = Proportion(0, 10).interval
    assert (low, high) == (0, pytest.approx(Z**2 / (10 + Z**2)))
    assert Proportion(10, 10).interval == (pytest.approx(10 / (10 + Z**2)), 1)
    # 81 of 263, as in Newcombe, Stat. Med. 17 (1998), table I, method 3
    assert Proportion(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_of_nothing_nothing_is_known():
    assert Proportion(0, 0).document() == {
        "value": None,
        "low": None,
        "high": None,
        "hits": 0,
        "of": 0,
    }
