"""Sums on a device, against exact ones in fractions; where there is no float64 too."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.foundation import tally as module
from prunekit.foundation.tally import Tally

CPU = torch.device("cpu")
numbers = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), max_size=60)


def narrow(size):
    """A tally as on a device without float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "has_float64", lambda device: False)
        return Tally(size, CPU)


@given(numbers)
def test_pairs_of_float32_hold_a_sum_to_45_bits(values):
    found = narrow(1)
    for value in values:
        found.add(torch.tensor([value]))
    exact = sum(map(Fraction, values), Fraction())
    size = sum((abs(Fraction(value)) for value in values), Fraction())
    assert abs(Fraction(float(found.read()[0])) - exact) <= size / 2**45


def test_counts_go_on_where_float32_alone_would_stand_still():
    found, alone = narrow(2), torch.zeros(2)
    for _ in range(1000):
        step = torch.tensor([2.0**20 + 1, 1.0])
        found.add(step)
        alone += step
    assert found.read().tolist() == [1000 * (2**20 + 1), 1000]
    assert float(alone[0]) != 1000 * (2**20 + 1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3))
def test_a_tally_is_set_to_what_another_read(values):
    values = torch.tensor(values, dtype=torch.float64)
    wide, pairs = Tally(3, CPU), narrow(3)
    wide.set(values)
    pairs.set(values)
    assert torch.equal(wide.read(), values)
    torch.testing.assert_close(pairs.read(), values, rtol=2**-46, atol=1e-30)
    for one in (wide, pairs):
        one.clear()
        assert not one.read().any()


def test_processes_add_up_what_they_have():
    for found in (Tally(2, CPU), narrow(2)):
        found.add(torch.tensor([1.5, 2.0]))
        assert found.read(lambda parts: 3 * parts).tolist() == [4.5, 6.0]
