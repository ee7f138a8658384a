"""Counted multiply-adds against closed forms worked by hand."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.models.cost import (
    Macs,
    count_macs,
    train_flops,
)
from prunekit.registry.configs import CompressorConfig
from tests.support.scored import kept
from tests.support.training import with_steps


class KeepFirst(DataCompressor):
    """Drop tokens at the end: keeps a share, another one in evaluation."""

    def __init__(self, share, eval_share=None):
        super().__init__(CompressorConfig(name="keep_first"))
        self.share, self.eval_share = share, share if eval_share is None else eval_share

    def output_tokens(self, n):
        return round(n * (self.share if self.training else self.eval_share))

    def forward(self, tokens):
        keep = tokens.protected + self.output_tokens(tokens.x.shape[1] - tokens.protected)
        return TokenBatch(tokens.x[:, :keep], tokens.size[:, :keep], tokens.protected)


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.heads = heads

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TinyViT(nn.Module):
    def __init__(self, side, patch, width, heads, depth, classes, compressor=None):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.slot = compressor
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        if self.slot is not None:
            x = self.slot(TokenBatch(x, torch.ones(*x.shape[:2], 1), 1)).x
        return self.head(self.blocks(x)[:, 0])


def vit_macs(side, patch, width, depth, classes, keep=1.0):
    patches = (side // patch) ** 2
    n = round(patches * keep) + 1
    block = n * 12 * width**2 + 2 * n * n * width
    return patches * width * 3 * patch**2 + depth * block + width * classes


def test_mlp_counts_each_weight_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    masks = {"1.weight": kept((5, 12), 40), "3.bias": kept((3,), 2)}
    assert count_macs(model, (3, 2, 2), masks) == Macs(75, 75, 35)  # a bias multiplies nothing


@pytest.mark.parametrize(
    ("layer", "positions", "weights"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), 5 * 5, 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, groups=2), 7 * 7, 6 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), 5 * 5, 4 * 9),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), 9 * 9, 4 * 6 * 9),
    ],
)
def test_convolution_counts_positions_times_entries(layer, positions, weights):
    masks = {"weight": kept(layer.weight.shape, 10)}
    expected = Macs(positions * weights, positions * weights, positions * (weights - 10))
    assert count_macs(layer, (4, 9, 9), masks) == expected


def test_token_layer_counts_tokens():
    # ShrinkBench counts 147,456 here: it forgets that the layer runs at each of 197 tokens
    layer = nn.Linear(192, 768)
    assert count_macs(layer, (1, 197, 192)).dense == 197 * 147_456


@with_steps
@given(
    pruned=st.integers(0, 8 * 24),
    keep=st.sampled_from([1.0, 0.75, 0.5, 0.25]),
    depth=st.integers(1, 2),
)
def test_vit_with_masks_and_fewer_tokens(pruned, keep, depth):
    model = TinyViT(8, 2, 8, 2, depth, 5, KeepFirst(keep))
    masks = {"blocks.0.qkv.weight": kept((24, 8), pruned), "head.weight": kept((5, 8), 7)}
    macs = count_macs(model, (3, 8, 8), masks)
    tokens = round(16 * keep) + 1
    assert macs.dense == vit_macs(8, 2, 8, depth, 5)
    assert macs.executed == vit_macs(8, 2, 8, depth, 5, keep)
    assert macs.theoretical == macs.executed - tokens * pruned - 7


def test_published_size_of_the_paper_model():
    dense = TinyViT(224, 16, 384, 3, 4, 10)
    short = TinyViT(224, 16, 384, 3, 4, 10, KeepFirst(0.6))
    assert 2 * count_macs(dense, (3, 224, 224)).dense / 1e9 == pytest.approx(3.14, abs=0.005)
    macs = count_macs(short, (3, 224, 224))
    assert 2 * macs.executed / 1e9 == pytest.approx(1.89, abs=0.005)
    assert macs.dense == count_macs(dense, (3, 224, 224)).dense
    assert count_macs(short, (3, 224, 224), dense=7) == replace(macs, dense=7)


@pytest.mark.parametrize("grad", [True, False])
def test_multihead_attention_is_not_lost_to_its_fast_path(grad):
    n, c, hidden = 7, 8, 16
    model = nn.TransformerEncoderLayer(c, 2, hidden, batch_first=True).requires_grad_(grad)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = model

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2))

    masks = {
        "layer.self_attn.in_proj_weight": kept((3 * c, c), 100),
        "layer.self_attn.out_proj.weight": kept((c, c), 10),
    }
    macs = count_macs(Tokens(), (c, 1, n), masks)
    assert macs.dense == n * (4 * c * c + 2 * c * hidden) + 2 * n * n * c
    assert macs.theoretical == macs.executed - n * 110
    assert torch.backends.mha.get_fastpath_enabled()


def test_cross_attention_counts_the_tokens_of_each_projection():
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.query = nn.Parameter(torch.zeros(1, 2, 4))

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.attention(self.query, x, x, need_weights=False)[0]

    masks = {"attention.in_proj_weight": kept((12, 4), 16 + 16)}  # all of q and all of k
    macs = count_macs(Pool(), (4, 1, 5), masks)
    assert macs.executed - macs.theoretical == 2 * 16 + 5 * 16


def test_weight_used_by_another_module_and_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            x = self.second(self.first(x.flatten(1)))
            return F.linear(input=x, weight=self.first.weight)

    for name in ("first.weight", "second.weight"):
        assert count_macs(Tied(), (1, 1, 4), {name: kept((4, 4), 5)}) == Macs(48, 48, 33)


def test_model_that_reads_values_is_counted_on_the_cpu():
    class Reads(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1) * x.sum().item())

    assert count_macs(Reads(4, 3), (1, 2, 2), {"weight": kept((3, 4), 5)}) == Macs(12, 12, 7)


def test_compressor_counts_as_in_training_or_evaluation_and_model_is_left_alone():
    model = TinyViT(8, 2, 8, 2, 1, 5, KeepFirst(0.25, eval_share=0.5)).train()
    before, noise = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert count_macs(model, (3, 8, 8)).executed == vit_macs(8, 2, 8, 1, 5, 0.5)
    assert count_macs(model, (3, 8, 8), training=True).executed == vit_macs(8, 2, 8, 1, 5, 0.25)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(noise, torch.get_rng_state())


def test_training_costs_three_forwards_of_what_is_executed():
    assert train_flops(Macs(dense=9, executed=5, theoretical=2), images=7) == 3 * 2 * 5 * 7
