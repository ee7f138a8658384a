"""Compressors between attention and MLP of our ViT's blocks, a ratio each."""

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch.testing import assert_close

from prunekit.compressors.average_pool import AveragePool
from prunekit.compressors.random_drop import RandomDrop
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError
from prunekit.models import attach, build_model, token_counts
from prunekit.models.cost import count_macs
from prunekit.models.vit import ViTConfig
from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import DataSpec
from tests.compressors.test_tome import oracle_round

DIGITS = DataSpec(channels=1, height=8, width=8, classes=10)
KINDS = {"tome": Tome, "random_drop": RandomDrop, "average_pool": AveragePool}


def make(kind, slot, ratio, **settings):
    return KINDS[kind](KINDS[kind].Config(name=kind, slot=slot, ratio=ratio, **settings))


def vit(*compressors, depth=3):
    config = ViTConfig(name="vit", patch_size=2, depth=depth, embed_dim=12, heads=3, mlp_ratio=2)
    torch.manual_seed(0)
    model = build_model(config, DIGITS)
    for parameter in model.parameters():
        parameter.data *= 3  # so that tokens differ and attention is far from uniform
    for compressor in compressors:
        attach(model, compressor.config.slot, compressor)
    return model.double()


def merging(*ratios, **settings):
    return [make("tome", f"blocks.{i}", r, **settings) for i, r in enumerate(ratios)]


@pytest.fixture
def images():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()


def lengths_at(model, images):
    """Tokens that the attention and the MLP of each block see, class token not counted."""
    seen = []
    for block in model.blocks:
        for part in (block.attn, block.mlp):
            part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1] - 1))
    model(images)
    return list(zip(seen[::2], seen[1::2], strict=True))


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(ratios=st.lists(st.integers(0, 80).map(lambda p: p / 100), min_size=3, max_size=3))
def test_each_block_removes_its_share_between_attention_and_mlp(kind, ratios):
    try:
        model = vit(*[make(kind, f"blocks.{i}", r) for i, r in enumerate(ratios)])
    except RecipeError:
        assume(False)
    n, expected = 16, []
    for ratio in ratios:
        removed = (2 * round(100 * ratio) * n + 100) // 200 if n > 1 else 0
        expected.append((n, n - removed))
        n -= removed
    assert lengths_at(model, torch.zeros(1, 1, 8, 8).double()) == expected
    counts = token_counts(model)
    assert list(counts.slots.values()) == expected
    assert (counts.before, counts.after) == (16, n)


def test_the_recipe_merges_four_tokens_in_each_block():
    recipe = load_recipe(shipped_recipes()["tome_blocks_digits"])
    model = build_model(recipe.model, DIGITS)
    for config in recipe.compressors:
        attach(model, config.slot, COMPRESSORS.create(config))
    assert lengths_at(model, torch.zeros(1, 1, 8, 8)) == [(16, 12), (12, 8), (8, 4)]


def test_a_block_whose_ratio_leaves_no_token_is_named():
    with pytest.raises(RecipeError, match=r"slot 'blocks\.1': ratio 0\.9 of 4 tokens leaves none"):
        vit(*merging(0.75, 0.9))


def test_multiply_adds_fall_where_tokens_are_missing():
    """Of a block, the MLP runs on what the compressor leaves, attention on what came in."""
    width, hidden, patch = 12, 24, 4

    def block(attending, mixed):
        projections = attending * 4 * width * width
        return projections + 2 * attending**2 * width + mixed * 2 * width * hidden

    ends = 16 * patch * width + width * 10
    dropped = vit(make("random_drop", "blocks.0", 0.5), make("random_drop", "blocks.2", 0.25))
    macs = count_macs(dropped, (1, 8, 8))
    assert macs.dense == 3 * block(17, 17) + ends
    assert macs.executed == block(17, 9) + block(9, 9) + block(9, 7) + ends


# --- what ToMe does -----------------------------------------------------------------------------


def slow_attention(attn, x, size):
    """softmax(q k / sqrt(d) + log size) v, a head and a query at a time."""
    heads, width = attn.num_heads, x.shape[1]
    head = width // heads
    projected = x @ attn.qkv.weight.T + attn.qkv.bias
    q, k, v = (projected[:, i * width : (i + 1) * width] for i in range(3))
    out = torch.empty_like(x)
    for h in range(heads):
        part = slice(h * head, (h + 1) * head)
        for i in range(x.shape[0]):
            logits = [float(q[i, part] @ k[j, part]) / head**0.5 for j in range(x.shape[0])]
            # exp(a + log s) = s exp(a)
            weight = torch.tensor(logits, dtype=torch.float64).exp() * size
            out[i, part] = (weight / weight.sum()) @ v[:, part]
    return out @ attn.proj.weight.T + attn.proj.bias


def slow_forward(model, image, removed):
    """One image through the ViT with `removed` tokens merged in each block -> logits, sizes."""
    x = model.embed(image[None]).x[0]
    size = torch.ones(x.shape[0]).double()
    for block, count in zip(model.blocks, removed, strict=True):
        x = x + slow_attention(block.attn, block.norm1(x), size)
        means, sizes, _ = oracle_round(x.tolist(), size.tolist(), 1, count, "cosine", "sequence")
        x, size = (torch.tensor(found, dtype=torch.float64) for found in (means, sizes))
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x[0])), size


@torch.no_grad()
def test_merging_in_every_block_equals_the_loops(images):
    asked = {"similarity": "cosine", "partition": "sequence", "proportional_attention": True}
    model = vit(*merging(0.25, 0.3333, 0.5, **asked))
    sizes = []
    model.blocks[2].compressor.register_forward_hook(lambda *call: sizes.append(call[2].size))
    logits = model(images)
    plain = vit(*merging(0.25, 0.3333, 0.5, **asked | {"proportional_attention": False}))(images)
    for b, image in enumerate(images):
        expected, size = slow_forward(model, image, (4, 4, 4))
        assert_close(logits[b], expected, rtol=1e-12, atol=1e-12)
        assert sizes[0][b, :, 0].tolist() == size.tolist()
        assert size.sum() == 17
        assert size.max() > 2  # some token was merged in more than one block
    assert not torch.allclose(plain, logits)


def test_attention_weighs_tokens_by_the_sizes_that_came_so_far(images):
    settings = {"similarity": "neg_l2", "proportional_attention": True}
    model = vit(*merging(0.25, 0.5, **settings))
    sizes, biases = [], []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _, inputs: biases.append(inputs[1]))
    for block in model.blocks[:2]:
        block.compressor.register_forward_hook(lambda *call: sizes.append(call[2].size))
    model(images)
    assert biases[0] is None  # every token is one patch there
    for bias, size in zip(biases[1:], sizes, strict=True):
        assert_close(bias[:, 0, 0], size[..., 0].double().log(), rtol=1e-14, atol=0)
        assert size.sum(1).flatten().tolist() == [17, 17]


# --- properties of the place --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_last_block_only_the_cost_changes(kind, images):
    """The class token has read the others by then, and it alone is classified."""
    last = vit(make(kind, "blocks.2", 0.5))
    assert_close(last(images), vit()(images))
    assert count_macs(last, (1, 8, 8)).executed < count_macs(vit(), (1, 8, 8)).executed
    assert not torch.allclose(vit(make(kind, "blocks.1", 0.5))(images), vit()(images))


def test_kinds_may_differ_from_block_to_block(images):
    model = vit(
        make("tome", "tokens", 0.25),
        make("random_drop", "blocks.0", 0.25),
        make("average_pool", "blocks.1", 0.34, proportional_attention=True),
    )
    sizes = {}
    for name, place in {"tokens": model, 0: model.blocks[0], 1: model.blocks[1]}.items():
        place.compressor.register_forward_hook(
            lambda _m, _i, out, name=name: sizes.update({name: out.size.sum(1).flatten()})
        )
    loss = model(images).square().sum()
    loss.backward()
    assert token_counts(model).slots == {
        "tokens": (16, 12), "blocks.0": (12, 9), "blocks.1": (9, 6)
    }  # fmt: skip
    assert sizes["tokens"].tolist() == [17, 17]
    assert (sizes[0] < 17).all()
    assert torch.equal(sizes[1], sizes[0])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    "kind",
    [
        "random_drop",
        *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "random_drop"),
    ],
)
def test_a_model_with_compressors_in_its_blocks_compiles(kind, images):
    model = vit(make(kind, "blocks.0", 0.25), make(kind, "blocks.1", 0.5)).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(images), model(images))
    meta = model.to("meta").train()
    assert meta(torch.empty(3, 1, 8, 8, device="meta").double()).shape == (3, 10)
