"""What a few seeds tell, against published tables, brute force and hand-worked examples."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from prunekit.report.statistics import (
    detectable_shift,
    paired_difference,
    pairs_needed,
    power,
    sign_test,
    summary,
    t_cdf,
    t_quantile,
)

# two-sided 5 % points of Student's t, as every textbook prints them
T_TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    9: 2.262,
    12: 2.179,
    30: 2.042,
    120: 1.980,
}


@pytest.mark.parametrize(("df", "value"), T_TABLE.items())
def test_t_quantiles_are_those_of_the_table(df, value):
    assert t_quantile(0.975, df) == pytest.approx(value, abs=6e-4)


def test_t_is_cauchy_and_has_a_closed_form_for_small_degrees():
    for x in (-3.0, 0.0, 0.7, 12.7):
        assert t_cdf(x, 1) == pytest.approx(0.5 + math.atan(x) / math.pi, abs=1e-10)
        assert t_cdf(x, 2) == pytest.approx(0.5 + x / (2 * math.sqrt(2 + x * x)), abs=1e-10)


@given(df=st.integers(1, 3000), x=st.floats(0, 30), shift=st.floats(-4, 6))
def test_t_is_a_distribution(df, x, shift):
    assert 0 <= t_cdf(x, df, shift) <= t_cdf(x + 0.5, df, shift) <= 1 + 1e-12
    assert t_cdf(-x, df, shift) == pytest.approx(1 - t_cdf(x, df, -shift), abs=1e-9)


def test_a_hand_worked_difference():
    """1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), half width 2.776 sqrt(2.5 / 5)."""
    found = paired_difference([1, 2, 3, 4, 5])
    assert (found.count, found.mean) == (5, 3)
    assert found.deviation == pytest.approx(math.sqrt(2.5))
    assert found.interval == pytest.approx(
        (3 - 2.77645 * math.sqrt(0.5), 3 + 2.77645 * math.sqrt(0.5)), abs=1e-4
    )
    assert found.sign_p is None  # five pairs are too few
    # 1.682 deviations for five pairs: Cohen's tables, G*Power
    assert found.detectable == pytest.approx(1.682 * math.sqrt(2.5), abs=1e-3)


@pytest.mark.parametrize(("pairs", "effect"), [(3, 3.264), (5, 1.682), (10, 0.996), (34, 0.4949)])
def test_detectable_differences_are_those_of_power_tables(pairs, effect):
    assert detectable_shift(pairs) / math.sqrt(pairs) == pytest.approx(effect, abs=1e-3)


def test_34_pairs_find_half_a_deviation():
    assert pairs_needed(0.5) == 34
    assert pairs_needed(1.0) == 10
    assert pairs_needed(100.0) == 2


@given(effect=st.floats(0.15, 20))
def test_pairs_needed_are_the_fewest(effect):
    brute = next(n for n in range(2, 2000) if power(effect * math.sqrt(n), n - 1) >= 0.8)
    assert pairs_needed(effect) == brute


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
def test_intervals_cover_and_power_is_reached_in_simulation(pairs):
    random = np.random.default_rng(pairs)
    shift = detectable_shift(pairs) / math.sqrt(pairs)
    samples = random.normal(shift, 1, size=(20_000, pairs))
    half = t_quantile(0.975, pairs - 1) * samples.std(1, ddof=1) / math.sqrt(pairs)
    mean = samples.mean(1)
    assert np.mean(abs(mean - shift) <= half) == pytest.approx(0.95, abs=0.006)
    assert np.mean(abs(mean) > half) == pytest.approx(0.8, abs=0.01)


def test_sign_test_by_hand():
    assert sign_test([1.0] * 5) is None
    assert sign_test([1.0] * 6) == 2 / 64
    assert sign_test([1.0] * 5 + [-1.0]) == 2 * 7 / 64
    assert sign_test([1.0, -1.0] * 3) == 1.0
    assert sign_test([1.0] * 5 + [0.0] * 9) is None  # ties say nothing
    # arXiv:2407.16716 at ratio 0.8: 59 wins, 99 losses
    assert sign_test([1.0] * 59 + [-1.0] * 99) == pytest.approx(0.002, abs=5e-4)


@given(signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=6, max_size=12))
def test_sign_test_against_all_outcomes(signs):
    n, lopsided = len(signs), abs(sum(signs))
    outcomes = [abs(2 * bin(bits).count("1") - n) for bits in range(2**n)]
    brute = sum(outcome >= lopsided for outcome in outcomes) / 2**n
    assert sign_test(signs) == pytest.approx(brute)
    assert sign_test([-sign for sign in signs]) == sign_test(signs)


def test_one_pair_has_no_interval_and_none_says_nothing():
    assert paired_difference([]) is None
    assert summary([]) is None
    one = paired_difference([0.4])
    assert (one.count, one.mean, one.interval, one.detectable, one.sign_p) == (
        1,
        0.4,
        None,
        None,
        None,
    )
    assert summary([0.4]).deviation is None


@pytest.mark.parametrize("rounding", [0, 1e-14])
def test_differences_that_agree_have_no_interval_and_promise_nothing(rounding):
    found = paired_difference([0.25] * 5 + [0.25 + rounding])
    assert (found.interval, found.detectable, found.seeds_for_target) == (None, None, None)
    assert (found.mean, found.sign_p) == (pytest.approx(0.25), 2 / 64)


@given(
    values=st.lists(st.floats(-50, 50), min_size=2, max_size=6),
    factor=st.floats(0.1, 10),
    offset=st.floats(-5, 5),
)
def test_intervals_move_and_stretch_with_the_differences(values, factor, offset):
    before = paired_difference(values)
    after = paired_difference([factor * value + offset for value in values])
    if before.interval is None or after.interval is None:
        assert np.ptp(values) == pytest.approx(0, abs=1e-6)
        return
    expected = [factor * end + offset for end in before.interval]
    assert after.interval == pytest.approx(expected, abs=1e-6)
    assert after.detectable == pytest.approx(factor * before.detectable, abs=1e-6)
