"""Durations in steps, against exact fractions."""

from fractions import Fraction
from math import floor

from hypothesis import given, strategies as st

from prunekit.foundation.timeline import Duration

AMOUNTS = st.fractions(0, 100, max_denominator=1000)


@given(AMOUNTS, st.sampled_from(["ep", "%"]), st.integers(0, 10**9), st.integers(1, 10**6))
def test_a_part_of_a_window_is_rounded_half_up(
    amount: Fraction, unit: str, window: int, per_epoch: int
) -> None:
    exact = amount * (per_epoch if unit == "ep" else Fraction(window, 100))
    assert Duration(amount, unit).steps(window, per_epoch) == floor(exact + Fraction(1, 2))


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6))
def test_steps_are_steps(amount: int, window: int, per_epoch: int) -> None:
    assert Duration(Fraction(amount), "st").steps(window, per_epoch) == amount


def test_halves_go_up() -> None:
    assert Duration(Fraction(50), "%").steps(5, 1) == 3
    assert Duration(Fraction(5, 2), "%").steps(100, 1) == 3
    assert Duration(Fraction(1, 2), "ep").steps(0, 7) == 4
