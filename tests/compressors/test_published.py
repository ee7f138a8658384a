"""tome on keys and evit in blocks of timm's transformer, and what their papers write, by loops."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from prunekit.compressors.base import TokenBatch
from prunekit.compressors.evit import Evit
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError
from prunekit.models import build_model, token_counts
from prunekit.models.placing import attach_all, in_each_block
from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import DataSpec
from prunekit.testing import check_compressor

timm = pytest.importorskip("timm")
SHAPE = (3, 32, 32)


def timm_vit(**settings):
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "num_heads": 3, "depth": 3}
    model = timm.models.vision_transformer.VisionTransformer(
        num_classes=10, **small | settings
    ).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def images():
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))


def tome(**settings):
    return Tome.Config(name="tome", **settings)


def evit(**settings):
    return Evit.Config(name="evit", **settings)


# --- the papers, a token and a head at a time ----------------------------------------------------


def attention(attn, x, size):
    """Of one image [N, C]: what it gives, keys [N, D] and class attention [N], means over heads.

    softmax(Q K / sqrt(d) + log s) V, arXiv:2210.09461 equation 1.
    """
    rows = x @ attn.qkv.weight.T + attn.qkv.bias
    d = x.shape[1] // attn.num_heads
    mixed, keys, seen = [], 0, 0
    for head in range(attn.num_heads):
        parts = (rows[:, i * x.shape[1] + head * d :][:, :d] for i in range(3))
        q, k, v = parts
        q, k = attn.q_norm(q), attn.k_norm(k)
        weight = (q @ k.T / d**0.5 + size.log()).softmax(-1)
        mixed.append(weight @ v)
        keys, seen = keys + k / attn.num_heads, seen + weight[0] / attn.num_heads
    return torch.cat(mixed, 1) @ attn.proj.weight.T + attn.proj.bias, keys, seen


def merged(x, size, keys, r):
    """Bipartite soft matching, arXiv:2210.09461 section 3: tokens of A in turn join B's."""
    a, b = range(0, len(x), 2), range(1, len(x), 2)  # by turns; the class token is in A, and stays
    edges = []
    for i in a:
        if i:
            likeness = [float(F.cosine_similarity(keys[i], keys[j], dim=0)) for j in b]
            edges.append((max(likeness), i, b[likeness.index(max(likeness))]))
    joins = {i: j for _, i, j in sorted(edges, reverse=True)[:r]}
    groups = [[i] for i in a if i not in joins]
    groups += [[j, *(i for i, to in joins.items() if to == j)] for j in b]
    means = [sum(size[i] * x[i] for i in group) / sum(size[i] for i in group) for group in groups]
    return torch.stack(means), torch.stack([sum(size[i] for i in group) for group in groups])


def fused(x, size, seen, left):
    """The most attended stay, the rest is one token weighted by attention, arXiv:2202.07800."""
    ranked = sorted(range(1, len(x)), key=lambda i: -float(seen[i]))
    kept, rest = sorted(ranked[: left - 1]), ranked[left - 1 :]
    one = sum(seen[i] * x[i] for i in rest)
    sizes = [size[0], *(size[i] for i in kept), sum(size[i] for i in rest)]
    return torch.stack([x[0], *(x[i] for i in kept), one]), torch.stack(sizes)


def by_hand(model, image, reduce, weigh=True):
    """Logits of one image; `reduce(index, x, size, keys, class attention)` after each attention."""
    x = model.patch_embed(image[None])
    x = model.norm_pre(model._pos_embed(x))[0]
    size = torch.ones(len(x))
    for index, block in enumerate(model.blocks):
        seen_size = size if weigh else torch.ones(len(x))
        branch, keys, seen = attention(block.attn, block.norm1(x), seen_size)
        x = x + block.ls1(branch)
        x, size = reduce(index, x, size, keys, seen)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.head(model.norm(x)[0]), size


PUBLISHED = {
    "slot": "blocks.*", "metric": "keys", "similarity": "cosine", "partition": "sequence",
    "proportional_attention": True,
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "init_values": 0.5}])
def test_tome_in_every_block_of_timms_is_what_its_paper_writes(settings):
    model, plain = timm_vit(**settings), timm_vit(**settings)
    attach_all(model, tome(r=4, **PUBLISHED), SHAPE)
    logits = model(images())
    assert not torch.allclose(logits, plain(images()), atol=1e-2)
    for got, image in zip(logits, images(), strict=True):
        wanted, size = by_hand(plain, image, lambda _, x, s, keys, __: merged(x, s, keys, 4))
        assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        assert (len(size), float(size.sum())) == (1 + 16 - 3 * 4, 17)


@torch.no_grad()
@pytest.mark.parametrize("proportional", [False, True])
def test_evit_in_chosen_blocks_is_what_its_paper_writes(proportional):
    model, plain = timm_vit(), timm_vit()
    for slot, ratio in (("blocks.0", 0.5), ("blocks.1", 0.25)):
        attach_all(model, evit(slot=slot, ratio=ratio, proportional_attention=proportional), SHAPE)
    assert token_counts(model, SHAPE).slots == {"blocks.0": (16, 8), "blocks.1": (8, 6)}

    def reduce(index, x, size, _, seen):
        return (x, size) if index == 2 else fused(x, size, seen, (8, 6)[index])

    for got, image in zip(model(images()), images(), strict=True):
        wanted, size = by_hand(plain, image, reduce, proportional)
        assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        assert float(size.sum()) == 17


# --- counts -------------------------------------------------------------------------------------


def counts(model):
    return [came - left for came, left in token_counts(model, SHAPE).slots.values()]


@pytest.mark.parametrize(
    ("settings", "removed"),
    [
        ({"r": 4}, [4, 4, 4]),
        ({"r": 6}, [6, 5, 2]),  # of 16, 10 and 5: at most half
        ({"r": 2, "over_blocks": "decreasing"}, [4, 2, 0]),
        ({"r": 3, "over_blocks": "decreasing"}, [6, 3, 0]),
        ({"ratio": 0.25}, [4, 3, 2]),
        ({"ratio": 0.25, "over_blocks": "decreasing"}, [8, 2, 0]),
    ],
)
def test_one_entry_stands_for_all_blocks(settings, removed):
    stock = timm_vit()
    own = build_model(
        ViTConfig(name="vit", patch_size=8, depth=3, embed_dim=12), DataSpec(3, 32, 32, 10)
    )
    for model in (stock, own):
        attach_all(model, tome(**PUBLISHED, **settings), SHAPE)
        assert counts(model) == removed


@pytest.mark.parametrize(("r", "depth"), [(13, 12), (7, 24), (5, 7), (1, 4), (8, 1)])
def test_a_falling_number_is_as_many_in_all(r, depth):
    class Blocks(torch.nn.Module):
        slots = ("tokens", *(f"blocks.{i}" for i in range(depth)))

        def attach(self, slot, compressor):
            pass

    found = [
        one.r
        for one in in_each_block(Blocks(), tome(slot="blocks.*", r=r, over_blocks="decreasing"))
    ]
    assert sum(found) == r * depth
    if depth > 1:
        exact = [2 * r * (1 - i / (depth - 1)) for i in range(depth)]
        assert all(abs(one - wanted) <= 1 for one, wanted in zip(found, exact, strict=True))
        assert found[-1] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "ratio or r: say how many"),
        ({"r": 2, "ratio": 0.5}, "give one of the two"),
        ({"r": 2, "over_blocks": "decreasing"}, r"is for slot 'blocks\.\*'"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        tome(**settings)


def test_a_share_that_begins_at_more_than_all_is_refused():
    config = tome(slot="blocks.*", ratio=0.5, over_blocks="decreasing")
    with pytest.raises(RecipeError, match=r"give one below 0\.5"):
        list(in_each_block(timm_vit(), config))


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Evit, {"name": "evit", "ratio": 0.5}),
        (Evit, {"name": "evit", "r": 3, "fused": "mean"}),
        (Tome, {"name": "tome", "metric": "keys", "ratio": 0.7, "similarity": "cosine"}),
        (Tome, {"name": "tome", "metric": "keys", "r": 3, "eval_ratio": 0.2}),
    ],
)
def test_they_keep_the_contract(cls, settings):
    check_compressor(cls, settings, examples=8)


def test_a_mean_of_what_is_fused_is_one():
    """By hand: attention 1/4 and 3/4 of what is fused."""
    x = torch.tensor([[[9.0], [1.0], [4.0], [8.0]]])
    seen = torch.tensor([[0.2, 0.1, 0.4, 0.3]])
    tokens = TokenBatch(x, torch.ones(1, 4, 1), 1, class_attention=seen)
    for how, value in (("sum", 0.1 * 1 + 0.3 * 8), ("mean", (0.1 * 1 + 0.3 * 8) / 0.4)):
        out = Evit(evit(ratio=0.3, fused=how))(tokens)
        assert_close(out.x, torch.tensor([[[9.0], [4.0], [value]]]))
        assert out.size.flatten().tolist() == [1, 1, 2]
