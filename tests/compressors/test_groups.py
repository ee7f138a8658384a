"""Where a compressor puts each token: what shows which patches were merged reads it."""

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.compressors import compressor
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.registry import COMPRESSORS

OWN = [one.name for one in COMPRESSORS.components() if one.builtin]


def tokens(samples, count, protected, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, protected + count, 3, generator=generator)
    size = torch.ones(samples, protected + count, 1)
    attention = torch.rand(samples, protected + count, generator=generator).softmax(-1)
    return TokenBatch(x, size, protected, class_attention=attention)


@pytest.mark.parametrize("name", OWN)
@given(
    count=st.integers(2, 20),
    ratio=st.sampled_from([0.0, 0.2, 0.5, 0.8]),
    protected=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_what_comes_out_is_the_mean_of_its_group(name, count, ratio, protected, seed):
    one = compressor(name, ratio=ratio).eval()
    if ratio == 0.8 and count < 3:
        return  # none would be left
    given_tokens = tokens(2, count, protected, seed)
    out, groups = one(given_tokens), one.groups(given_tokens)
    assert groups.shape == given_tokens.x.shape[:2]
    for sample in range(2):
        for place in range(out.x.shape[1]):
            members = given_tokens.x[sample][groups[sample] == place]
            assert len(members) == int(out.size[sample, place])
            if name not in ("tofu", "evit"):  # whose own tests say what becomes of a group
                assert torch.allclose(members.mean(0), out.x[sample, place], atol=1e-5)
    left_out = int((groups < 0).sum())
    assert left_out == (0 if one.conserves_mass else 2 * (count + protected - out.x.shape[1]))


def test_a_compressor_of_others_need_not_tell():
    assert DataCompressor.groups(compressor("tome", ratio=0.5), tokens(1, 4, 0, 0)) is None
