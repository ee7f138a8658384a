"""A mask that is put in force in blocks leaves what computing all of it anew does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.pruning import rewrite as module
from prunekit.pruning.rewrite import AtRest, rewrite


def at_rest(mode, shape, share, generator):
    """Mask, and what is kept of a weight under it."""
    dense = torch.randn(shape, generator=generator)
    old = torch.rand(shape, generator=generator) < share
    working = old.float()
    weight = dense * working
    if mode == "masked":  # what lies on the shelf for kept entries is out of date
        return old, AtRest(weight, working, None, torch.where(old, 7.0, dense))
    return old, AtRest(weight, working, dense if mode == "ste" else None)


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
@given(
    shape=st.sampled_from([(1,), (5,), (8,), (3, 21), (40, 5)]),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    moved=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    block=st.sampled_from([8, 16, 64]),
    strided=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_blocks_leave_what_the_whole_does(mode, shape, share, moved, block, strided, seed):
    generator = torch.Generator().manual_seed(seed)
    old, kept = at_rest(mode, shape, share, generator)
    mask = old ^ (torch.rand(shape, generator=generator) < moved)
    if strided:  # every second entry of a larger tensor
        mask = torch.stack([mask, ~mask], -1)[..., 0]
    source = {"ste": kept.dense, "hard": kept.weight, "masked": kept.shelf}[mode]
    if mode == "masked":
        source = torch.where(old, kept.weight, kept.shelf)
    expected = source * mask
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "BLOCK", block)
        flips = rewrite(kept, mask)
    assert flips == int((old != mask).sum())
    assert torch.equal(kept.working, mask.float())
    assert torch.equal(kept.weight, expected)
    assert torch.equal(kept.weight.signbit(), expected.signbit())  # zeros too
    if mode == "masked":
        assert torch.equal(torch.where(mask, kept.weight, kept.shelf), source)
    if mode == "ste":
        assert torch.equal(kept.dense, source)


def test_what_numpy_cannot_write_does_not_fit():
    ones = torch.ones(4, 4)
    assert AtRest(ones, ones).fits
    assert not AtRest(ones.T[1:], ones).fits
    assert not AtRest(ones.bfloat16(), ones.bfloat16()).fits
    assert not AtRest(ones.to("meta"), ones).fits
