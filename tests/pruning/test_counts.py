"""What is counted of masks, on the host as on a device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.pruning.counts import (
    Counted,
    _on_device,
    count_entries,
    count_masks,
    counts_of,
    lanes,
)
from prunekit.pruning.sparsity import measure_sparsity

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3) | st.just([3, 200])


@st.composite
def masks(draw):
    """A mask and the one before it, sparse enough for empty rows."""
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**16))
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    new, old = noise < draw(st.sampled_from([0.0, 0.01, 0.2, 0.9, 1.0]))
    return new, old


def by_hand(new, old):
    rows = new.tolist() if new.ndim > 1 else []
    empty = sum(not torch.tensor(row).any() for row in rows)
    return new.numel(), sum(new.flatten().tolist()), len(rows), empty, int((new != old).sum())


def numbers(one):
    return one.entries, one.kept, one.rows, one.empty_rows, one.flips


@given(masks())
def test_masks_are_counted_as_by_hand(pair):
    new, old = pair
    found, _ = count_masks({"w": new}, lambda name: old)
    assert numbers(found["w"]) == by_hand(new, old)


@given(masks())
def test_a_device_counts_the_same(pair):
    new, old = pair
    kept, empty, flips, *_ = _on_device(new, old, fingerprints=True)
    _, expected_kept, _, expected_empty, expected_flips = by_hand(new, old)
    assert (int(kept), int(empty), int(flips)) == (expected_kept, expected_empty, expected_flips)


def test_a_wide_row_is_looked_at_to_its_end():
    mask = torch.zeros(3, 1000, dtype=torch.bool)
    mask[1, 999] = mask[2, 0] = True
    assert count_masks({"w": mask})[0]["w"].empty_rows == 1


@given(st.integers(1, 300), st.data())
def test_one_entry_more_has_other_lanes(length, data):
    mask = torch.rand(length, generator=torch.Generator().manual_seed(length)) < 0.5
    other = mask.clone()
    other[data.draw(st.integers(0, length - 1))] ^= True
    assert [int(lane) for lane in lanes(mask)] == [int(lane) for lane in lanes(mask.clone())]
    assert all(int(a) != int(b) for a, b in zip(lanes(mask), lanes(other), strict=True))


def test_lanes_tell_places_apart():
    words = torch.eye(4096, dtype=torch.bool)[::16]
    assert len({tuple(int(lane) for lane in lanes(row)) for row in words}) == len(words)


def test_flags_are_read_along():
    flags = [torch.tensor(True), torch.tensor([False])]
    assert count_masks({"w": torch.ones(3, dtype=torch.bool)}, flags=flags)[1] == [1, 0]


def test_what_is_known_is_not_made():
    mask = torch.tensor([[True, False], [False, False]])
    known = Counted(
        ["weight"], lambda name: pytest.fail("a mask was made"), counts_of({"weight": mask})
    )
    assert count_entries(known) == (1, 4)
    assert "weight" in known
    assert "bias" not in known
    layer = nn.Linear(2, 2)
    assert measure_sparsity(layer, known) == measure_sparsity(layer, {"weight": mask})
