"""Merging where torch has to see each operation, which numpy would hide, and on odd memory."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.compressors.base import TokenBatch
from prunekit.compressors.means import Matching, by_slot
from prunekit.compressors.tome import Tome, match

RATIOS = pytest.mark.parametrize("ratio", [0.4, 0.7])  # one round, and two


class Watch(TorchDispatchMode):
    """Sees each operation, and does it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def merging(ratio, samples=2):
    compressor, size = Tome(Tome.Config(name="tome", ratio=ratio)), torch.ones(samples, 9, 1)
    return lambda x: compressor(TokenBatch(x, size, 1)).x


def drawn(seed, samples=2):
    return torch.randn(samples, 9, 4, generator=torch.Generator().manual_seed(seed))


@given(
    groups=st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1)
    )
)
def test_tokens_are_ordered_by_slot_and_then_by_place(groups):
    tokens = [(b, slot, i) for b, row in enumerate(groups) for i, slot in enumerate(row)]
    matching = Matching(torch.tensor(groups), 5)
    expected = [b * len(groups[0]) + i for b, _, i in sorted(tokens)]
    assert by_slot(matching).tolist() == expected
    with Watch():
        assert by_slot(matching).tolist() == expected


SCORES = st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 1.0, 3.0, math.inf, math.nan])


@given(tokens=st.lists(SCORES, min_size=4, max_size=12), data=st.data())
def test_what_is_not_finite_matches_alike_watched_and_not(tokens, data):
    x = torch.tensor(tokens).view(1, -1, 1)
    removed = data.draw(st.integers(1, len(tokens) // 2))
    group = match(x, removed).group
    with Watch():
        assert torch.equal(match(x, removed).group, group)
    assert group.unique().tolist() == list(range(len(tokens) - removed))


@RATIOS
def test_a_mode_sees_the_same_tokens_made(ratio):
    merge, x = merging(ratio), drawn(0)
    with Watch():
        watched = merge(x)
    assert torch.equal(watched, merge(x))


@RATIOS
def test_a_traced_program_merges_what_it_is_given(ratio):
    merge = merging(ratio)
    program = make_fx(merge)(drawn(0))
    assert torch.equal(program(drawn(1)), merge(drawn(1)))


@RATIOS
def test_tokens_without_values_have_a_shape(ratio):
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        merged = merging(ratio)(fake.from_tensor(drawn(0)))
    assert merged.shape == merging(ratio)(drawn(0)).shape


@RATIOS
def test_transforms_of_functions_give_the_gradients_of_autograd(ratio):
    merge, x = merging(ratio), drawn(0).requires_grad_()
    out = merge(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad(out, x, upstream)
    made, back = torch.func.vjp(merge, x.detach())
    assert_close(made, out.detach())
    assert_close(back(upstream)[0], expected)


@RATIOS
def test_tokens_may_lie_in_memory_in_any_order(ratio):
    merge, x = merging(ratio), drawn(0)
    turned = x.mT.contiguous().mT.requires_grad_()
    assert not turned.is_contiguous()
    plain = x.clone().requires_grad_()
    for one in (turned, plain):
        merge(one).mT.square().sum().backward()
    assert torch.equal(merge(turned), merge(plain))
    assert torch.equal(turned.grad, plain.grad)


@RATIOS
def test_tokens_stay_on_their_device_whatever_the_default(ratio):
    merge, x = merging(ratio), drawn(0).requires_grad_()
    with torch.device("meta"):
        merged = merge(x)
        merged.sum().backward()
    assert torch.equal(merged, merge(x))
    assert x.grad.device == x.device
