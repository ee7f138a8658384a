"""Slots between attention and MLP of stock transformers: bit for bit what they were at ratio 0."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from prunekit.compressors.random_drop import RandomDrop
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError
from prunekit.models import attach, token_counts
from prunekit.models.attention import FewerHeadsAttention
from prunekit.models.cost import count_macs
from prunekit.models.placing import attach_all
from prunekit.models.stock_transformers import _giving_logits
from tests.compressors.test_reads import ALL, Reader
from tests.models.test_stock_slots import Grouped, equal_in_groups, shaken

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
vision_transformer = timm.models.vision_transformer
SHAPE = (3, 32, 32)
TINY = {"img_size": 32, "num_classes": 10, "embed_dim": 24, "num_heads": 2, "depth": 2}


def timm_vit(**settings):
    torch.manual_seed(0)
    small = TINY | {"patch_size": 8, "embed_dim": 12} | settings
    return shaken(vision_transformer.VisionTransformer(**small)).eval()


def torchvision_vit():
    torch.manual_seed(0)
    return shaken(torchvision.models.VisionTransformer(32, 8, 2, 2, 12, 24, num_classes=10)).eval()


def transformers_vit(kind="ViT", **settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24, "image_size": 32, "patch_size": 8, "num_labels": 10}
    config = getattr(transformers, f"{kind}Config")(**shape | settings)
    return shaken(_giving_logits(getattr(transformers, f"{kind}ForImageClassification"))(config))


STOCK = {
    "timm": timm_vit,
    "timm, with norms": lambda: timm_vit(qk_norm=True, init_values=0.5, reg_tokens=2),
    "timm, unfused": lambda: unfused(timm_vit()),
    "torchvision": torchvision_vit,
    "ViT": lambda: transformers_vit().eval(),
    "DeiT": lambda: transformers_vit("DeiT").eval(),
    "Dinov2": lambda: transformers_vit("Dinov2", mlp_ratio=2).eval(),
}
every_stock = pytest.mark.parametrize("make", STOCK.values(), ids=STOCK)


def unfused(model):
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def images(samples=2):
    return torch.randn(samples, *SHAPE, generator=torch.Generator().manual_seed(2))


def tome(**settings):
    return Tome.Config(name="tome", **settings)


def in_all(model, **settings):
    published = {"metric": "keys", "similarity": "cosine", "proportional_attention": True}
    attach_all(model, tome(slot="blocks.*", **published | settings), SHAPE)
    return model


# --- ratio 0 ------------------------------------------------------------------------------------

OF_TIMM = [
    "vit_tiny_patch16_224", "vit_small_patch32_224", "vit_base_patch8_224",
    "vit_base_patch16_rpn_224", "vit_base_patch16_224_miil", "vit_small_patch16_36x1_224",
    "vit_small_patch14_reg4_dinov2", "vit_base_patch14_dinov2", "vit_medium_patch16_gap_240",
    "vit_wee_patch16_reg1_gap_256", "vit_little_patch16_reg4_gap_256", "flexivit_small",
    "vit_betwixt_patch16_reg4_gap_256", "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224", "vit_base_patch32_clip_224",
    "vit_base_patch16_clip_quickgelu_224", "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", OF_TIMM)
def test_at_ratio_0_a_model_of_timm_gives_what_it_gave(name):
    torch.manual_seed(0)
    model = shaken(timm.create_model(name, **TINY)).eval()
    keys, expected = list(model.state_dict()), model(images())
    in_all(model, ratio=0)
    assert torch.equal(model(images()), expected)
    assert list(model.state_dict()) == keys


@torch.no_grad()
@every_stock
def test_at_ratio_0_all_stock_models_give_what_they_gave(make):
    model, plain = make(), make()
    keys = list(model.state_dict())
    in_all(model, ratio=0)
    for mode in (False, True):  # drop path and dropout draw as before
        torch.manual_seed(1)
        expected = plain.train(mode)(images())
        torch.manual_seed(1)
        # bit for bit but for torch's attention, which takes another kernel where it has a mask
        assert_close(model.train(mode)(images()), expected, rtol=1e-6, atol=1e-6)
    assert list(model.state_dict()) == keys


@torch.no_grad()
def test_drop_path_and_dropout_draw_as_they_did():
    settings = {"drop_path_rate": 0.5, "proj_drop_rate": 0.2, "attn_drop_rate": 0.2}
    model, plain = timm_vit(**settings).train(), timm_vit(**settings).train()
    in_all(model, ratio=0)
    torch.manual_seed(1)
    expected = plain(images(8))
    torch.manual_seed(1)
    assert torch.equal(model(images(8)), expected)


# --- equal tokens merged count as all of them ----------------------------------------------------


class Weighed(Grouped):
    """Equal tokens become one of their size, and attention is told."""

    needs_size_bias = True


GROUPS = [0, 0, 3, 1, 1, 1, 3, 2, 2, 2, 3, 2, 0, 4, 4, 5]


@torch.no_grad()
@pytest.mark.parametrize("slot", ["tokens", "blocks.0"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qk_norm": True, "init_values": 0.5},
        {"fused": False},
        {"class_token": False, "global_pool": "avg"},
        {"global_pool": "avg", "reg_tokens": 2},
    ],
)
def test_attention_and_head_count_merged_tokens_as_their_patches(slot, settings):
    """So that logits are those of all tokens, where what is merged is equal."""
    fused = settings.get("fused", True)
    rest = {key: value for key, value in settings.items() if key != "fused"}
    model = timm_vit(**rest, depth=3).double()
    model = model if fused else unfused(model)
    same = equal_in_groups(model, GROUPS)
    expected = model(same)
    attach(model, slot, Weighed(GROUPS), SHAPE)
    assert_close(model(same), expected, rtol=1e-9, atol=1e-9)
    assert token_counts(model, SHAPE).after == 6


@torch.no_grad()
@pytest.mark.parametrize("kind", ["torchvision", "ViT", "Dinov2"])
def test_the_others_weigh_too(kind):
    model = STOCK[kind]().double()
    for name, parameter in model.named_parameters():
        if "pos" in name:
            parameter.zero_()
    cells = torch.randn(2, 16, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    same = (
        cells[:, GROUPS].reshape(2, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    )
    expected = model(same)
    attach(model, "blocks.0", Weighed(GROUPS), SHAPE)
    assert_close(model(same), expected, rtol=1e-9, atol=1e-9)


# --- what is read -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["torchvision", "fewer heads", "ViT", "DeiT", "Dinov2"])
def test_keys_and_class_attention_are_those_of_the_block(kind):
    """timm's are proved where tome and evit are (`test_published.py`)."""
    if kind in ("torchvision", "fewer heads"):
        model = torchvision_vit().double()
        block = model.encoder.layers[1]
        if kind == "fewer heads":
            block.self_attention = shaken(FewerHeadsAttention(block.self_attention, 1)).double()
        attention = block.self_attention
    else:
        model = STOCK[kind]().double()
        model.set_attn_implementation("eager")
        base = getattr(model, kind.lower())
        block = (base.encoder.layer if kind == "Dinov2" else base.layers)[1]
        attention = block.attention
    attach(model, "blocks.0", Reader("blocks.0", (), drops=5, biased=True), SHAPE)
    attach(model, "blocks.1", reader := Reader("blocks.1", ALL), SHAPE)
    came = []
    attention.register_forward_pre_hook(lambda _, args: came.append(args[0]))
    model(images().double())
    x, tokens = came[-1], reader.seen[-1]
    if isinstance(attention, nn.MultiheadAttention):
        _, weights = attention(x, x, x)
        inner = len(attention.in_proj_weight) // 3
        k = x @ attention.in_proj_weight[inner : 2 * inner].T
        k = k + attention.in_proj_bias[inner : 2 * inner]
        keys = k.unflatten(-1, (attention.num_heads, -1)).mean(2)
    else:
        _, weights = attention(x)
        weights = weights.mean(1)
        keys = attention.k_proj(x).unflatten(-1, (2, -1)).mean(2)
    assert_close(tokens.keys, keys)
    assert_close(tokens.class_attention, weights[:, 0])
    assert tokens.depth == (1, 2)
    assert tokens.size.max() == 6


# --- what is refused ----------------------------------------------------------------------------


def refused(model, *compressors):
    before, keys = model(images()), list(model.state_dict())
    for one in compressors[:-1]:
        attach(model, one.config.slot, one, SHAPE)
    with pytest.raises(RecipeError) as caught:
        attach(model, compressors[-1].config.slot, compressors[-1], SHAPE)
    assert "\n" not in str(caught.value)
    if len(compressors) == 1:
        assert torch.equal(model(images()), before)
        assert list(model.state_dict()) == keys
    return str(caught.value)


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "ParallelThingsBlock"])
def test_blocks_without_a_place_between_are_refused_by_name(block):
    model = timm_vit(block_fn=getattr(vision_transformer, block))
    said = refused(model, Reader("blocks.1", ()))
    assert f"no place between attention and MLP in block 1 ({block})" in said
    attach(model, "tokens", Tome(tome(ratio=0.5)), SHAPE)


def test_what_attention_does_not_show_is_refused_by_name():
    differential = timm_vit(attn_layer="diff")
    assert "reads keys, which VisionTransformer does not" in refused(
        differential, Reader("blocks.0", {"keys"})
    )
    pooled = timm_vit(class_token=False, global_pool="avg")
    assert "reads class_attention, which" in refused(pooled, Reader("blocks.0", ALL))
    assert "slot 'tokens'" in refused(timm_vit(), Reader("tokens", {"class_attention"}))


class Deaf(vision_transformer.Attention):
    """Hears no mask."""

    def forward(self, x, attn_mask=None, is_causal=False):
        return super().forward(x)


def test_attention_that_takes_no_bias_is_refused_by_name():
    model = timm_vit(attn_layer=Deaf)
    said = refused(model, Reader("blocks.0", (), biased=True))
    assert said.startswith("proportional_attention: VisionTransformer cannot give it")
    attach(model, "blocks.1", Reader("blocks.1", (), biased=True), SHAPE)  # nothing is behind it


def test_a_slot_is_taken_once_and_unknown_ones_are_told():
    one = Reader("blocks.0", ())
    assert "'blocks.0' holds a compressor already" in refused(timm_vit(), one, one)
    assert "its slots are tokens, blocks.0, blocks.1" in refused(timm_vit(), Reader("blocks.7", ()))


def test_a_head_that_counts_patches_takes_no_drop_behind_a_merge():
    drop = RandomDrop(RandomDrop.Config(name="random_drop", slot="blocks.1", ratio=0.5))
    merge = Tome(tome(slot="blocks.0", ratio=0.5))
    pooled = {"class_token": False, "global_pool": "avg"}
    assert "drop before merging" in refused(timm_vit(**pooled), merge, drop)
    attach(timm_vit(), "blocks.0", merge, SHAPE)
    early = RandomDrop(RandomDrop.Config(name="random_drop", slot="tokens", ratio=0.5))
    model = timm_vit(**pooled)
    for one in (early, Tome(tome(slot="blocks.0", ratio=0.5))):
        attach(model, one.config.slot, one, SHAPE)
    assert model(images()).shape == (2, 10)
    assert token_counts(model, SHAPE).slots == {"tokens": (16, 8), "blocks.0": (8, 4)}


class Twice(vision_transformer.Block):
    """Reads its input again behind attention."""

    def forward(self, x, **kwargs):
        return super().forward(x, **kwargs) + 0.1 * x


def test_a_block_that_reads_its_input_elsewhere_is_refused():
    assert "no place between" in refused(timm_vit(block_fn=Twice), Reader("blocks.0", ()))


# --- what goes on working ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["timm", *(pytest.param(k, marks=pytest.mark.slow) for k in ("torchvision", "ViT"))]
)
def test_it_compiles_exports_copies_and_trains(kind):
    model = STOCK[kind]()  # the second block has the sizes that the first made
    published = {"metric": "keys", "similarity": "cosine", "proportional_attention": True}
    attach(model, "blocks.0", Tome(tome(slot="blocks.0", ratio=0.25, **published)), SHAPE)
    expected = model(images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(images()), expected)
    shapes = ({0: torch.export.Dim("batch", min=1, max=16)},)
    program = torch.export.export(model, (images(),), dynamic_shapes=shapes, strict=False)
    assert_close(program.module()(images(3)), model(images(3)))
    twin = shaken(copy.deepcopy(model))
    twin(images(3))
    assert torch.equal(model(images()), expected)
    model.train()(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images()).isfinite().all()


def test_a_copy_takes_another_compressor():
    """Hooks are found, and not only remembered: those of the original are not doubled."""
    model = timm_vit()
    attach(model, "blocks.0", Reader("blocks.0", ALL), SHAPE)
    twin = copy.deepcopy(model)
    attach(twin, "blocks.1", Reader("blocks.1", ALL), SHAPE)
    readers = [block.compressor for block in twin.blocks]
    for reader in readers:
        reader.seen.clear()
    twin(images())
    assert [len(reader.seen) for reader in readers] == [1, 1]


def test_checkpointed_blocks_give_the_same_gradients():
    """They are passed a second time in backward, from the last to the first."""
    plain, saving = (in_all(timm_vit(depth=3), ratio=0.25).train() for _ in range(2))
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        model(images()).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert_close(one.grad, other.grad)


def test_multiply_adds_are_those_of_fewer_tokens():
    model, plain = timm_vit(), timm_vit()
    attach(model, "blocks.0", RandomDrop(
        RandomDrop.Config(name="random_drop", slot="blocks.0", ratio=0.5)), SHAPE)  # fmt: skip
    macs = count_macs(model, SHAPE)
    assert macs.dense == count_macs(plain, SHAPE).executed
    mlp, attention = 8 * 12 * 48 * 2, 8 * 12 * 12 * 4 + 2 * 12 * (17**2 - 9**2)
    assert macs.dense - macs.executed == 2 * mlp + attention


def test_a_pass_that_ends_in_the_middle_leaves_nothing_behind():
    model, plain = timm_vit(), timm_vit()
    attach(model, "blocks.0", Reader("blocks.0", ()), SHAPE)
    model.blocks[0].attn.register_forward_hook(lambda *_: 1 / 0 if model.training else None)
    with pytest.raises(ZeroDivisionError):
        model.train()(images())
    assert torch.equal(model.eval()(images()), plain(images()))
