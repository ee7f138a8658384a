"""Token fusion against loops written from arXiv:2312.01026, on Python numbers."""

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch.testing import assert_close

from prunekit import TokenBatch
from prunekit.compressors.base import Depth
from prunekit.compressors.tofu import ToFu

Vector = list[float]
WIDTH = 3


def make(ratio: float = 0.4, **settings: object) -> ToFu:
    return ToFu(ToFu.Config(name="tofu", ratio=ratio, **settings))


@st.composite
def batches(draw: st.DrawFn) -> TokenBatch:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    protected, count = draw(st.integers(0, 2)), draw(st.integers(2, 14))
    x = torch.randn(2, protected + count, WIDTH, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, protected + count, 2, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 4, (*x.shape[:2], 1), generator=generator).double()
    return TokenBatch(x, size, protected, keys)


def cosine(a: Vector, b: Vector) -> float:
    return sum(map(math.prod, zip(a, b, strict=True))) / math.hypot(*a) / math.hypot(*b)


def fused(came: TokenBatch, sample: int, removed: int, metric: str, *, prune: bool):
    """One round over one sample: tokens and sizes that come out, and the group of each."""
    p, x = came.protected, came.x[sample].tolist()
    size = came.size[sample, :, 0].tolist()
    assert came.keys is not None
    compared = x if metric == "tokens" else came.keys[sample].tolist()
    a, b = range(p, len(x), 2), range(p + 1, len(x), 2)
    best = {i: max(b, key=lambda j, i=i: cosine(compared[i], compared[j])) for i in a}
    sources = sorted(a, key=lambda i: -cosine(compared[i], compared[best[i]]))[:removed]
    members = {i: [i] for i in (*range(p), *(i for i in a if i not in sources), *b)}
    for i in sorted(sources):
        members[best[i]].append(i)
    out = []
    for kept, group in members.items():
        if len(group) == 1 or prune:
            out.append(x[kept])
            continue
        total = sum(size[i] for i in group)
        mean = [sum(size[i] * x[i][c] for i in group) / total for c in range(WIDTH)]
        longest = max(math.hypot(*x[i]) for i in group)
        out.append([longest * c / math.hypot(*mean) for c in mean])
    return out, [sum(size[i] for i in group) for group in members.values()], members


@given(
    came=batches(),
    ratio=st.sampled_from([0.1, 0.3, 0.5]),
    metric=st.sampled_from(["tokens", "keys"]),
    operation=st.sampled_from(["prune", "merge"]),
)
def test_it_is_what_the_paper_does(
    came: TokenBatch, ratio: float, metric: str, operation: str
) -> None:
    one = make(ratio, metric=metric, operation=operation)
    n = came.x.shape[1] - came.protected
    removed = n - one.output_tokens(n)
    assume(0 < removed <= n // 2)
    out, groups = one(came), one.groups(came)
    for sample in range(2):
        x, size, members = fused(came, sample, removed, metric, prune=operation == "prune")
        assert_close(out.x[sample], torch.tensor(x, dtype=torch.float64))
        assert out.size[sample, :, 0].tolist() == size
        expected = {i: slot for slot, group in enumerate(members.values()) for i in group}
        assert groups[sample].tolist() == [expected[i] for i in range(came.x.shape[1])]


@given(came=batches(), ratio=st.sampled_from([0.3, 0.6, 0.8]), operation=st.booleans())
def test_no_token_is_longer_or_shorter_than_those_it_is_of(
    came: TokenBatch, ratio: float, operation: bool
) -> None:
    one = make(ratio, operation="merge" if operation else "prune")
    n = came.x.shape[1] - came.protected
    assume(ratio < 1 - 1 / n)
    out, groups = one(came), one.groups(came)
    length, before = (torch.linalg.vector_norm(t.x, dim=-1) for t in (out, came))
    for sample in range(2):
        for slot in range(out.x.shape[1]):
            inside = groups[sample] == slot
            own = before[sample, inside]
            if operation:
                assert_close(length[sample, slot], own.max())
            else:
                same = (came.x[sample, inside] == out.x[sample, slot]).all(-1)
                assert same.any()
            if len(own) == 1:
                assert torch.equal(out.x[sample, slot], came.x[sample, inside][0])


@pytest.mark.parametrize(
    ("depth", "prunes"), [((0, 4), True), ((1, 4), True), ((2, 4), False), ((3, 4), False)]
)
def test_early_blocks_prune_and_late_ones_merge(depth: tuple[int, int], prunes: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, size = torch.randn(1, 8, 4, generator=generator), torch.ones(1, 8, 1)
    out = make(operation="auto")(TokenBatch(x, size, 1, depth=Depth(*depth)))
    plain = make(operation="prune" if prunes else "merge")(TokenBatch(x, size, 1))
    assert torch.equal(out.x, plain.x)
    assert make(operation="auto").reads == {"depth"}
    assert make(operation="merge", metric="keys").reads == {"keys"}


def test_opposite_tokens_have_no_mean_direction_and_stay_finite() -> None:
    x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    out = make(0.5, operation="merge")(TokenBatch(x, torch.ones(1, 2, 1), 0)).x
    assert torch.isfinite(out).all()
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("operation", ["prune", "merge"])
def test_gradients_are_right(operation: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    size = torch.randint(1, 4, (2, 7, 1), generator=generator).double()
    one = make(0.6, operation=operation)  # 6 -> 2 tokens: two rounds
    assert torch.autograd.gradcheck(lambda x: one(TokenBatch(x, size, 1)).x, (x,))
