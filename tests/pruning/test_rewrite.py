"""A mask that is put in force in blocks leaves what computing all of it anew does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.pruning import rewrite as module
from prunekit.pruning.counts import count_masks
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.rewrite import AtRest, rewrite
from prunekit.pruning.strategies.base import Update


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
    shape=st.sampled_from([(1,), (5,), (8,), (100,), (3, 21), (40, 5), (24, 2, 3)]),
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
    rows = mask.flatten(1).tolist() if mask.ndim > 1 and not torch.equal(old, mask) else []
    empty = sum(True not in row for row in rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "BLOCK", block)
        patched.setattr(module, "COMPARED", 2 * block)
        change = rewrite(kept, mask)
    assert change == (int((old != mask).sum()), int(mask.sum()) - int(old.sum()), empty)
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


@pytest.mark.parametrize("mode", ["ste", "hard", "masked"])
def test_counts_follow_from_what_has_changed(mode):
    torch.manual_seed(0)
    params = {"w": torch.nn.Parameter(torch.randn(40, 24)), "b": torch.nn.Parameter(torch.randn(7))}
    mask_set = MaskSet(params, dict.fromkeys(params, mode))
    old = {name: torch.ones_like(param, dtype=torch.bool) for name, param in params.items()}
    for share in (0.5, 0.03, 0.03, 0.1, 0.9):
        new = {name: torch.rand(param.shape) < share for name, param in params.items()}
        flips = mask_set.apply(Update(new), new)
        assert flips == {name: int((new[name] != old[name]).sum()) for name in new}
        found, known = mask_set.counted().counts, count_masks(new)[0]
        assert {n: replace(one, flips=0) for n, one in found.items()} == known
        assert all(torch.equal(mask_set.mask(name), new[name]) for name in new)
        old = new
