"""Spectrum-preserving merging against loops written from arXiv:2405.16148, on Python numbers."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch.testing import assert_close

from prunekit import TokenBatch
from prunekit.compressors.base import Depth
from prunekit.compressors.pitome import PiToMe, margin_at

WIDTH = 3


def make(ratio: float = 0.4, **settings: object) -> PiToMe:
    return PiToMe(PiToMe.Config(name="pitome", ratio=ratio, **settings))


@st.composite
def batches(draw: st.DrawFn) -> TokenBatch:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    protected, count = draw(st.integers(0, 2)), draw(st.integers(2, 14))
    x = torch.randn(2, protected + count, WIDTH, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, protected + count, 4, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 4, (*x.shape[:2], 1), generator=generator).double()
    return TokenBatch(x, size, protected, keys)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(math.prod, zip(a, b, strict=True))) / math.hypot(*a) / math.hypot(*b)


def energy(compared: list[list[float]], i: int, margin: float, alpha: float) -> float:
    """Equation 4."""
    total = 0.0
    for other in compared:
        alike = cosine(compared[i], other)
        total += alike if alike >= margin else alpha * (math.exp(alike - margin) - 1)
    return total / len(compared)


def groups_of(compared: list[list[float]], k: int, margin: float, alpha: float):
    """Algorithm 1: each of A with the B that it joins; numbers count from the first unprotected."""
    scores = [energy(compared, i, margin, alpha) for i in range(len(compared))]
    order = sorted(range(len(compared)), key=lambda i: -scores[i])[: 2 * k]
    a, b = order[0::2], order[1::2]
    gap = min((scores[i] - scores[j] for i, j in itertools.pairwise(order)), default=1)
    return {i: max(b, key=lambda j, i=i: cosine(compared[i], compared[j])) for i in a}, gap


@given(
    came=batches(),
    ratio=st.sampled_from([0.1, 0.3, 0.5]),
    metric=st.sampled_from(["tokens", "keys"]),
    margin=st.sampled_from([-0.5, 0.0, 0.3, 0.9]),
    alpha=st.sampled_from([0.5, 1.0]),
)
def test_it_is_what_the_paper_does(
    came: TokenBatch, ratio: float, metric: str, margin: float, alpha: float
) -> None:
    one = make(ratio, metric=metric, margin=margin, alpha=alpha)
    p, n = came.protected, came.x.shape[1] - came.protected
    k = n - one.output_tokens(n)
    assume(k <= n // 2)
    out, groups = one(came), one.groups(came)
    assert came.keys is not None
    for sample in range(2):
        x, size = came.x[sample].tolist(), came.size[sample, :, 0].tolist()
        compared = (came.x if metric == "tokens" else came.keys)[sample, p:].tolist()
        joins, gap = groups_of(compared, k, margin, alpha)
        assume(gap > 1e-9)
        members = {i: [i] for i in range(p + n) if i - p not in joins}
        for i, j in sorted(joins.items()):
            members[p + j].append(p + i)
        for slot, group in enumerate(members.values()):
            total = sum(size[i] for i in group)
            mean = [sum(size[i] * x[i][c] for i in group) / total for c in range(WIDTH)]
            assert_close(out.x[sample, slot], torch.tensor(mean, dtype=torch.float64))
            assert float(out.size[sample, slot]) == total
            assert groups[sample, group].tolist() == [slot] * len(group)
            if len(group) == 1:
                assert torch.equal(out.x[sample, slot], came.x[sample, group[0]])


def test_a_cluster_is_merged_and_what_stands_alone_is_kept() -> None:
    """By hand: four alike tokens, two apart from them and each other; two are to go."""
    alone = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    alike = [[1.0, 0.01 * i, 0.0] for i in range(4)]
    x = torch.tensor([[alone[0], *alike[:2], alone[1], *alike[2:]]])
    one = make(0.3334)
    tokens = TokenBatch(x, torch.ones(1, 6, 1), 0, depth=Depth(0, 2))
    out, groups = one(tokens), one.groups(tokens)
    assert out.size.flatten().tolist().count(1.0) >= 2
    for row in alone:
        assert any(torch.equal(kept, torch.tensor(row)) for kept in out.x[0])
    assert groups[0, 0] not in groups[0, 1:]
    assert groups[0, 3] not in groups[0, [0, 1, 2, 4, 5]]


def test_the_margin_falls_over_the_blocks() -> None:
    assert [round(margin_at(Depth(i, 3)), 6) for i in range(3)] == [0.9, 0.6, 0.3]
    assert margin_at(None) == 0.9
    assert make().reads == {"depth"}
    assert make(margin=0.5, metric="keys").reads == {"keys"}


@given(came=batches(), data=st.data())
def test_where_a_token_stands_does_not_matter(came: TokenBatch, data: st.DataObject) -> None:
    """Unlike halves by position: the same tokens in another order give the same set."""
    p, n = came.protected, came.x.shape[1] - came.protected
    order = [*range(p), *(p + i for i in data.draw(st.permutations(range(n))))]
    one = make(0.4, margin=0.5)
    moved = one(TokenBatch(came.x[:, order], came.size[:, order], p))
    out = one(came)
    for sample in range(2):
        first, second = (sorted(t.x[sample].tolist()) for t in (out, moved))
        assert_close(torch.tensor(first), torch.tensor(second))


@pytest.mark.parametrize("metric", ["tokens", "keys"])
def test_gradients_are_right(metric: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 7, 2, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 4, (2, 7, 1), generator=generator).double()
    one = make(0.6, margin=0.2, metric=metric)  # 6 -> 2 tokens: two rounds
    assert torch.autograd.gradcheck(lambda x: one(TokenBatch(x, size, 1, keys)).x, (x,))
