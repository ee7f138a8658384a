"""The alpha rule against its definition, in fractions, and against the public code's form of it."""

from fractions import Fraction

import torch
from hypothesis import given, strategies as st
from prunekit_nnrelief.rule import keep_strongest

# integers and sixteenths: every sum and product below is exact in float64
ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=12)
ALPHAS = st.integers(1, 16).map(lambda k: Fraction(k, 16))


def smallest_enough(row, alpha):
    """The definition: strongest first (ties by index), until they make up alpha of the sum."""
    kept, mass = set(), 0
    for index in sorted(range(len(row)), key=lambda i: (-row[i], i)):
        if mass >= alpha * sum(row):
            break
        kept.add(index)
        mass += row[index]
    return [i in kept for i in range(len(row))]


def official(row, alpha):
    """pivot = (entries whose cumulative sum is below alpha S) + 1, at most the last; <= is pruned.

    Of the public code's description; its own way of counting and of ties.
    """
    order = sorted(row, reverse=True)
    below = sum(sum(order[: i + 1]) < alpha * sum(order) for i in range(len(order)))
    pivot = order[min(below + 1, len(order) - 1)]
    return [value > pivot for value in row]


def kept(row, alpha):
    return keep_strongest(torch.tensor([row]), float(alpha))[0].tolist()


@given(ROWS, ALPHAS)
def test_it_is_the_definition(row, alpha):
    assert kept(row, alpha) == smallest_enough(row, alpha)


@given(ROWS, ALPHAS)
def test_it_keeps_enough_and_no_more(row, alpha):
    chosen = [value for value, keep in zip(row, kept(row, alpha), strict=True) if keep]
    assert sum(chosen) >= alpha * sum(row)
    assert not chosen or sum(chosen) - min(chosen) < alpha * sum(row)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True), ALPHAS)
def test_the_public_code_keeps_as_many_or_one_less(row, alpha):
    ours, theirs = kept(row, alpha), official(row, alpha)
    assert all(mine for mine, other in zip(ours, theirs, strict=True) if other)
    needs_all = sum(ours) == len(row)
    assert sum(ours) - sum(theirs) == (1 if needs_all else 0)


def test_the_public_code_loses_units_that_ours_keeps():
    assert official([3], Fraction(1, 2)) == [False]
    assert official([2, 2, 2], Fraction(1, 2)) == [False, False, False]
    assert kept([3], Fraction(1, 2)) == [True]
    assert kept([2, 2, 2], Fraction(1, 2)) == [True, True, False]


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=12))
def test_alpha_1_prunes_zeros_only(row):
    row = torch.tensor([row], dtype=torch.float64)
    assert torch.equal(keep_strongest(row, 1.0), row > 0)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_a_tiny_alpha_keeps_the_strongest_alone(row):
    chosen = kept(row, Fraction(1, 2**20))
    assert sum(chosen) == 1
    assert chosen.index(True) == row.index(max(row))


@given(ROWS, ALPHAS, st.sampled_from([2.0**-30, 0.5, 8.0]))
def test_the_scale_of_a_unit_does_not_matter(row, alpha, scale):
    scaled = keep_strongest(torch.tensor([row]) * scale, float(alpha))
    assert scaled[0].tolist() == kept(row, alpha)


def test_units_are_on_their_own():
    mass = torch.tensor([[8.0, 1.0, 1.0], [1.0, 1.0, 8.0], [0.0, 0.0, 0.0]])
    expected = [[True, False, False], [False, False, True], [False, False, False]]
    assert keep_strongest(mass, 0.75).tolist() == expected
