"""Options of `vit` against timm's own, and by hand."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from prunekit.compressors.base import TokenBatch
from prunekit.models import attach, token_counts
from prunekit.models.residual import DropPath
from prunekit.models.vit import ViTConfig, mean_of_patches
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import DataSpec

SPEC = DataSpec(3, 16, 16, 5)
OPTIONS = {
    "registers": {"registers": 3},
    "layer_scale": {"layer_scale": 0.1},
    "distill_token": {"distill_token": True},
    "mean": {"pool": "mean"},
    "mean with registers": {"pool": "mean", "registers": 2, "layer_scale": 0.5},
    "all": {"distill_token": True, "registers": 2, "layer_scale": 0.1, "drop_path": 0.3},
}


def small(**settings):
    torch.manual_seed(0)
    own = {"patch_size": 4, "embed_dim": 12, "heads": 3, "depth": 3, **settings}
    return ViTConfig(name="vit", **own).build(SPEC)


def compressor(name="tome", **settings):
    return COMPRESSORS.create(COMPRESSORS.parse({"name": name, "ratio": 0.5, **settings}))


def from_timm(settings):
    """timm's model of the same settings with random weights everywhere, and ours with the same."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    theirs = {
        "img_size": 16, "patch_size": 4, "embed_dim": 12, "num_heads": 3, "depth": 3,
        "num_classes": 5, "reg_tokens": settings.get("registers", 0),
        "init_values": settings.get("layer_scale"),
    }  # fmt: skip
    make = timm.VisionTransformer
    if settings.get("distill_token"):
        from timm.models.deit import VisionTransformerDistilled as make
    if settings.get("pool") == "mean":
        theirs |= {"class_token": False, "global_pool": "avg"}
    model = make(**theirs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    ours = small(**settings).eval()
    placed, registers = len(ours.placed), settings.get("registers", 0)
    with torch.no_grad():  # timm gives registers a position
        model.pos_embed[:, placed : placed + registers] = 0
    weights = {k.replace("fc_norm", "norm"): t for k, t in model.state_dict().items()}
    rows = [i for i in range(16 + placed + registers) if not placed <= i < placed + registers]
    weights["pos_embed"] = weights["pos_embed"][:, rows]
    ours.load_state_dict(weights, strict=True)
    return model, ours


@pytest.mark.parametrize(
    "settings",
    [
        {"registers": 3},
        {"layer_scale": 0.1},
        {"distill_token": True},
        {"pool": "mean"},
        {"pool": "mean", "registers": 2, "layer_scale": 0.5},
        {"distill_token": True, "layer_scale": 0.5},
    ],
    ids=str,
)
def test_the_options_compute_what_timm_computes(settings):
    theirs, ours = from_timm(settings)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_a_distilled_model_gives_both_heads_where_a_loss_asks_for_them_as_timms_does():
    theirs, ours = from_timm({"distill_token": True})
    images = torch.randn(2, 3, 16, 16)
    for model in (theirs, ours):
        mean = model(images)
        torch.testing.assert_close(model.train()(images), mean)
        model.set_distilled_training(True)
        first, second = model(images)
        torch.testing.assert_close((first + second) / 2, mean)
        assert not torch.equal(first, second)
        torch.testing.assert_close(model.eval()(images), mean)
    assert small().train()(images).shape == (2, 5)


def test_a_model_without_options_has_the_weights_that_it_had():
    """Drawn by hand in the order of before there were options: first as torch does by itself."""
    model = small()
    assert [name for name, _ in model.named_parameters()][:2] == ["cls_token", "pos_embed"]
    torch.manual_seed(0)
    nn.Conv2d(3, 12, 4)
    layers = [
        nn.Linear(n, m) for _ in range(3) for n, m in ((12, 36), (12, 12), (12, 48), (48, 12))
    ]
    layers.append(nn.Linear(12, 5))
    drawn = [torch.zeros(1, 1, 12), torch.zeros(1, 17, 12), *(layer.weight for layer in layers)]
    for weight in drawn:
        nn.init.trunc_normal_(weight, std=0.02)
    assert torch.equal(model.head.weight, drawn[-1])
    assert torch.equal(model.pos_embed, drawn[1])


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["tome", "random_drop", "average_pool"])
def test_tokens_beside_the_patches_are_never_merged(settings, name):
    model, seen = small(**settings), []
    attach(model, "tokens", compressor(name), SPEC.input_shape)
    attach(model, "blocks.1", compressor(name, slot="blocks.1"), SPEC.input_shape)
    model.blocks[2].register_forward_hook(lambda *given: seen.append(given[-1]))
    images = torch.randn(2, 3, 16, 16)
    before = model.embed(images).x[:, : model.protected]
    after = model.compressor(model.embed(images))
    assert torch.equal(after.x[:, : model.protected], before)
    model(images)
    expected = (
        settings.get("registers", 0)
        + (settings.get("pool") != "mean")
        + settings.get("distill_token", False)
    )
    assert seen[0].protected == model.protected == expected
    assert seen[0].x.shape[1] == expected + 4
    assert (token_counts(model).before, token_counts(model).after) == (16, 4)


def test_the_mean_counts_a_merged_token_as_often_as_it_has_patches():
    x = torch.tensor([[[9.0], [1.0], [4.0]]])
    size = torch.tensor([[[1.0], [3.0], [1.0]]])
    assert mean_of_patches(TokenBatch(x, size, protected=1)).item() == pytest.approx(7 / 4)
    assert mean_of_patches(TokenBatch(x, size, protected=0)).item() == pytest.approx(16 / 5)


def test_merging_equal_patches_leaves_the_mean():
    model = small(pool="mean", depth=1).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for left in (0, 8):  # each patch is there twice, side by side
        images[..., left + 4 : left + 8] = images[..., left : left + 4]
    with torch.no_grad():
        model.pos_embed.zero_()
    plain = model(images)
    attach(model, "tokens", compressor(similarity="neg_l2", proportional_attention=True))
    torch.testing.assert_close(model(images), plain, rtol=1e-5, atol=1e-6)


def test_stochastic_depth_rises_from_the_first_block_to_the_last():
    model = small(drop_path=0.3, depth=4)
    rates = [getattr(block.drop_path2, "rate", 0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert getattr(small(drop_path=0.3, depth=1).blocks[0].drop_path1, "rate", 0) == 0


def test_a_branch_is_left_out_for_whole_samples_and_keeps_its_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    assert torch.equal(drop.eval()(x), x)
    torch.manual_seed(3)
    found = drop.train()(x)
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert found.mean().item() == pytest.approx(1, abs=0.03)
    torch.manual_seed(3)
    assert torch.equal(drop(x), found)


def test_a_distillation_token_needs_a_class_token():
    with pytest.raises(ValidationError, match="stands beside a class token: set pool to cls"):
        small(pool="mean", distill_token=True)
