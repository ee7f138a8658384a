"""Models, the slots of ours and of stock ones, and start weights."""

import copy
import sys
from urllib.error import URLError

import pytest
import torch
import torchvision
from hypothesis import given, strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.compressors.tome import Tome
from prunekit.errors import CheckpointError, DataError, RecipeError
from prunekit.models import TokenCounts, attach, build_model, load_initial, slots, token_counts
from prunekit.models.base import Slotted
from prunekit.models.layers import nearest_divisors
from prunekit.models.mlp import MLPConfig
from prunekit.models.stock import TimmConfig, TorchvisionConfig, copy_all_but_classifier
from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import CompressorConfig, DataSpec

CIFAR = DataSpec(channels=3, height=32, width=32, classes=10)
TINY = DataSpec(channels=1, height=8, width=8, classes=10)


def tome(ratio=0.5, slot="tokens", **settings):
    return Tome(Tome.Config(name="tome", slot=slot, ratio=ratio, **settings))


def tiny_vit(**settings):
    defaults = {"patch_size": 2, "depth": 3, "embed_dim": 12, "heads": 3, "mlp_ratio": 2}
    config = ViTConfig.model_validate({"name": "vit"} | defaults | settings)
    torch.manual_seed(0)
    return build_model(config, TINY)


def tiny_torchvision(dropout=0.0):
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=24,
        dropout=dropout,
        num_classes=10,
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return model


def tiny_timm(distilled=False, **settings):
    pytest.importorskip("timm")
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = (VisionTransformerDistilled if distilled else VisionTransformer)(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=10, **settings
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # also the gains that start at 0 or 1
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


STOCK = {
    "torchvision": tiny_torchvision,
    "torchvision with dropout": lambda: tiny_torchvision(dropout=0.2),
    "timm": tiny_timm,
    "timm with LayerScale and qk-norm": lambda: tiny_timm(init_values=0.5, qk_norm=True),
    "timm distilled": lambda: tiny_timm(distilled=True),
    "timm with registers": lambda: tiny_timm(reg_tokens=4, no_embed_class=True, init_values=0.5),
    "timm averaged": lambda: tiny_timm(class_token=False, global_pool="avg"),
    "timm with dropout": lambda: tiny_timm(pos_drop_rate=0.2, patch_drop_rate=0.25),
}
every_stock_model = pytest.mark.parametrize("make", STOCK.values(), ids=STOCK.keys())


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def small_images():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))


# --- our own models -----------------------------------------------------------------------------


def weights_of(model, kinds=(nn.Linear, nn.Conv2d)):
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds))


@pytest.mark.parametrize(("side", "patch", "patches"), [(32, 4, 64), (224, 16, 196)])
def test_the_papers_vit_has_its_size(side, patch, patches):
    config = ViTConfig(name="vit", patch_size=patch, depth=4, embed_dim=384, heads=3)
    with torch.device("meta"):
        model = build_model(config, DataSpec(3, side, side, 10))
    assert token_counts(model) == TokenCounts(patches, patches, {})
    assert sum(p.numel() for n, p in model.blocks.named_parameters() if p.ndim == 2) == 7_077_888
    assert weights_of(model) == 7_077_888 + 384 * (3 * patch**2 + 10)
    assert model(torch.empty(5, 3, side, side, device="meta")).shape == (5, 10)


def test_the_vits_parameters_are_named_as_timms():
    timm = pytest.importorskip("timm")
    theirs = timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=12, depth=3, num_heads=3,
        mlp_ratio=2,
    )  # fmt: skip
    ours = tiny_vit()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 1, 8, 8)
    assert_close(theirs(x), ours(x))


def test_the_mlp_of_the_paper_has_266200_weights():
    model = build_model(MLPConfig(name="mlp"), DataSpec(1, 28, 28, 10))
    assert weights_of(model) == 266_200
    assert [n for n, _ in model.named_parameters()][::2] == [f"fc{i}.weight" for i in (1, 2, 3)]
    assert model(torch.randn(4, 1, 28, 28)).shape == (4, 10)


def test_an_mlp_without_hidden_layers_is_linear():
    model = build_model(MLPConfig(name="mlp", hidden=()), TINY)
    x, y = torch.randn(2, 3, 1, 8, 8)
    assert_close(model(x + y), model(x) + model(y) - model(torch.zeros_like(x)))


@pytest.mark.parametrize("config", [ViTConfig(name="vit", patch_size=4), MLPConfig(name="mlp")])
def test_a_seed_gives_one_model(config):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_model(config, TINY).state_dict())
    same = [torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)]
    assert all(same)
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_patch_that_does_not_divide_names_those_that_do():
    config = ViTConfig(name="vit", patch_size=5)
    with pytest.raises(RecipeError, match=r"patch_size: 5 does not divide .*32x32.*use 4 or 8"):
        build_model(config, CIFAR)
    with pytest.raises(RecipeError, match="use 4 or 8"):
        build_model(config, DataSpec(3, 32, 24, 10))


def test_a_default_that_does_not_go_with_what_is_written_is_told():
    with pytest.raises(ValidationError, match="3 heads do not divide embed_dim 64: use 2 or 4"):
        ViTConfig(name="vit", embed_dim=64)


def test_heads_that_do_not_divide_name_those_that_do():
    with pytest.raises(ValidationError, match="5 heads do not divide embed_dim 384: use 4 or 6"):
        ViTConfig(name="vit", embed_dim=384, heads=5)


def test_an_mlp_ratio_that_leaves_no_unit_is_refused():
    with pytest.raises(RecipeError, match="mlp_ratio"):
        tiny_vit(mlp_ratio=0.01)


@given(number=st.integers(1, 500), near=st.integers(1, 600))
def test_nearest_divisors(number, near):
    found = nearest_divisors(number, near)
    assert found
    assert all(number % d == 0 for d in found)
    closest = min(abs(d - near) for d in range(1, number + 1) if number % d == 0)
    assert closest in [abs(d - near) for d in found]


# --- slots of our ViT ---------------------------------------------------------------------------


def test_the_vit_declares_its_slots():
    model = tiny_vit()
    assert isinstance(model, Slotted)
    assert slots(model) == ("tokens", "blocks.0", "blocks.1", "blocks.2")


class Recorder(DataCompressor):
    """Changes nothing and keeps what it saw."""

    def __init__(self, slot, biased=False):
        super().__init__(CompressorConfig(name="recorder", slot=slot))
        self.biased, self.seen = biased, None

    @property
    def needs_size_bias(self):
        return self.biased

    def forward(self, tokens):
        self.seen = tokens
        return tokens

    def output_tokens(self, n):
        return n


def test_tokens_reach_the_slots_in_order_with_their_sizes(small_images):
    model = tiny_vit()
    recorders = {slot: Recorder(slot) for slot in ("blocks.0", "blocks.2")}
    attach(model, "tokens", tome(0.5))
    attach(model, "blocks.1", tome(0.25))
    for slot, recorder in recorders.items():
        attach(model, slot, recorder)
    model(small_images)
    for slot, left in (("blocks.0", 8), ("blocks.2", 6)):
        seen = recorders[slot].seen
        assert seen.x.shape == (2, 1 + left, 12)
        assert seen.size.sum(1).flatten().tolist() == [17, 17]
        assert seen.protected == 1
    expected = {"tokens": (16, 8), "blocks.0": (8, 8), "blocks.1": (8, 6), "blocks.2": (6, 6)}
    assert token_counts(model) == TokenCounts(before=16, after=6, slots=expected)


def test_the_position_is_in_the_tokens_and_the_class_token_leads(small_images):
    model, recorder = tiny_vit(), Recorder("tokens")
    attach(model, "tokens", recorder)
    model(small_images)
    patches = model.patch_embed(small_images)
    assert_close(recorder.seen.x[:, 1:], patches + model.pos_embed[:, 1:])
    assert_close(
        recorder.seen.x[:, :1], (model.cls_token + model.pos_embed[:, :1]).expand(2, 1, -1)
    )


def test_ratio_zero_changes_no_bit_of_the_vit(small_images):
    model = tiny_vit()
    expected = model(small_images)
    for slot in slots(model):
        attach(model, slot, tome(0.0, slot))
    assert torch.equal(model(small_images), expected)


@pytest.mark.parametrize("slot", ["tokens", "blocks.1"])
def test_proportional_attention_counts_a_merged_token_as_its_patches(slot):
    """Equal patches merged with log(size) give what the unmerged ones give; without, not."""
    outputs = {}
    for name, compressor in {
        "none": None,
        "plain": tome(0.5, slot, similarity="neg_l2"),
        "proportional": tome(0.5, slot, similarity="neg_l2", proportional_attention=True),
    }.items():
        model = tiny_vit().double()
        for parameter in model.parameters():
            parameter.data *= 5
        model.pos_embed.data[:, 2::2] = model.pos_embed.data[:, 1::2]
        if compressor is not None:
            attach(model, slot, compressor)
        pixels = torch.randn(2, 1, 4, 2, generator=torch.Generator().manual_seed(3)).double()
        columns = pixels.repeat_interleave(2, 2)[..., [0, 1, 0, 1, 0, 1, 0, 1]]
        images = columns + torch.arange(8).double().div(4, rounding_mode="floor")
        outputs[name] = model(images)
    assert_close(outputs["proportional"], outputs["none"])
    assert not torch.allclose(outputs["plain"], outputs["none"])


def test_attention_is_biased_only_behind_a_compressor_that_asks(small_images):
    model = tiny_vit()
    attach(model, "blocks.0", Recorder("blocks.0", biased=True))
    seen = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(small_images)
    assert seen[0] is None
    assert seen[1].shape == seen[2].shape == (2, 1, 1, 17)


@pytest.mark.parametrize("proportional", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_vit_with_merging_compiles_copies_and_loads(proportional, small_images):
    model = tiny_vit()
    keys = set(model.state_dict())
    attach(model, "tokens", tome(0.6, proportional_attention=proportional))
    attach(model, "blocks.1", tome(0.2))
    expected = model(small_images)
    assert set(model.state_dict()) == keys
    assert torch.equal(copy.deepcopy(model)(small_images), expected)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(small_images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(small_images).square().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    other = tiny_vit(depth=3)
    other.load_state_dict(model.state_dict(), strict=True)


def test_a_vit_with_merging_runs_on_the_meta_device():
    model = tiny_vit().to("meta")
    attach(model, "tokens", tome(0.8, proportional_attention=True))
    assert model(torch.empty(3, 1, 8, 8, device="meta")).shape == (3, 10)


# --- slots of stock models ----------------------------------------------------------------------


@every_stock_model
@pytest.mark.parametrize("training", [False, True])
def test_ratio_zero_changes_no_bit_of_a_stock_model(make, training, images):
    model = make().train(training)
    torch.manual_seed(5)
    expected = model(images)
    attach(model, "tokens", tome(0.0))
    torch.manual_seed(5)
    for one, other in zip(model(images), expected, strict=True):
        assert torch.equal(one, other)
    assert torch.unique(expected[0] if isinstance(expected, tuple) else expected).numel() > 2


def len_of_training(model):
    """Patches of 16 that timm's own patch drop leaves."""
    stood_there = getattr(getattr(model, "patch_drop", None), "inner", None)
    return int(16 * (1 - getattr(stood_there, "prob", 0)))


@every_stock_model
def test_a_stock_model_keeps_its_keys_and_merges_its_patches(make, images):
    model = make()
    keys = list(model.state_dict())
    attach(model, "tokens", tome(0.75, eval_ratio=0.5))
    assert list(model.state_dict()) == keys
    make().load_state_dict(model.state_dict(), strict=True)
    for training, after in ((True, 0.25), (False, 0.5)):
        model.train(training)
        came = len_of_training(model) if training else 16
        left = round(came * after)
        assert token_counts(model) == TokenCounts(16, left, {"tokens": (came, left)})
    lengths = []
    encoder = model.encoder.layers if hasattr(model, "encoder") else model.blocks
    encoder[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    output = copy.deepcopy(model)(images)
    model(images).square().sum().backward()
    assert torch.isfinite(output).all()
    assert lengths == [8 + getattr(model, "num_prefix_tokens", 1)] * 2
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused


@every_stock_model
def test_the_prefix_of_a_stock_model_is_protected(make, images):
    model, recorder = make().eval(), Recorder("tokens")
    attach(model, "tokens", recorder)
    model(images)
    assert recorder.seen.protected == getattr(model, "num_prefix_tokens", 1)
    assert recorder.seen.x.shape[1] == 16 + recorder.seen.protected
    assert recorder.seen.size.unique().tolist() == [1]


@pytest.mark.slow
def test_a_stock_model_with_merging_compiles(images):
    model = tiny_torchvision()
    attach(model, "tokens", tome(0.6))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(images), model(images))


@pytest.mark.parametrize("make", [tiny_torchvision, tiny_timm])
def test_proportional_attention_is_given_by_stock_models(make):
    images = torch.rand(2, 3, 32, 32)
    plain, proportional = make().eval(), make().eval()
    proportional.load_state_dict(plain.state_dict())
    attach(plain, "tokens", tome(0.5))
    attach(proportional, "tokens", tome(0.5, proportional_attention=True))
    assert token_counts(plain).slots == token_counts(proportional).slots
    assert not torch.allclose(plain(images), proportional(images))


@pytest.mark.parametrize("make", [tiny_vit, tiny_torchvision, tiny_timm])
def test_a_slot_takes_one_compressor(make):
    model = make()
    attach(model, "tokens", tome())
    with pytest.raises(RecipeError, match="'tokens' holds a compressor already"):
        attach(model, "tokens", tome())


@pytest.mark.parametrize("make", [tiny_vit, tiny_torchvision])
def test_counts_stand_beside_the_slot_that_was_given(make):
    model = make()
    for slot in ("blocks.0", "blocks.1"):
        attach(model, slot, tome(0.5))  # whose settings say `tokens`, as by default
    assert list(token_counts(model).slots) == ["blocks.0", "blocks.1"]


def test_an_unknown_slot_lists_the_slots():
    with pytest.raises(RecipeError, match=r"no slot 'blocks.3': .* tokens, blocks.0, .*blocks.2"):
        attach(tiny_vit(), "blocks.3", tome())
    with pytest.raises(RecipeError, match=r"no slot 'blocks\.9': its slots are tokens, blocks.0"):
        attach(tiny_torchvision(), "blocks.9", tome())


def test_a_model_without_slots_says_so():
    model = build_model(MLPConfig(name="mlp"), TINY)
    assert slots(model) == ()
    assert token_counts(model) is None
    with pytest.raises(RecipeError, match="has no slot"):
        attach(model, "tokens", tome())


@pytest.mark.parametrize("ratios", [{"ratio": 0.99}, {"ratio": 0.1, "eval_ratio": 0.99}])
@pytest.mark.parametrize("make", [tiny_vit, tiny_torchvision, tiny_timm])
def test_a_ratio_that_leaves_no_token_is_found_when_attached(make, ratios):
    with pytest.raises(RecipeError, match="leaves none"):
        attach(make(), "tokens", tome(**ratios))


@pytest.mark.parametrize("training", [False, True])
def test_attaching_leaves_each_modules_mode(training):
    model = tiny_vit().train(training)
    model.norm.train(not training)
    attach(model, "tokens", tome())
    assert model.compressor.training == model.training == training
    assert model.norm.training != training


class Foreign(nn.Module):
    """A third party's model: it has a slot, but does not say how many tokens it has."""

    slots = ("here",)

    def attach(self, slot, compressor):
        self.compressor = compressor

    def forward(self, x):
        return self.compressor(TokenBatch(x, x.new_ones((*x.shape[:2], 1)), 0)).x


def test_a_third_partys_model_takes_compressors():
    model = Foreign()
    attach(model, "here", tome(0.5))
    assert slots(model) == ("here",)
    assert token_counts(model) is None
    assert model(torch.randn(1, 6, 2)).shape == (1, 3, 2)


# --- torchvision and timm by name ---------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    ["resnet18", "vit_b_32", "googlenet", pytest.param("densenet121", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_fit_the_data(variant, channels):
    with torch.device("meta"):
        model = build_model(
            TorchvisionConfig(name=f"torchvision:{variant}"), DataSpec(channels, 64, 64, 7)
        )
        assert model(torch.empty(2, channels, 64, 64)).shape == (2, 7)
    assert model.training


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("resnet_18", CIFAR, "no image classifier 'resnet_18'. Did you mean 'resnet18'"),
        ("fcn_resnet50", CIFAR, "no image classifier"),
        ("vit_b_16", DataSpec(3, 40, 40, 10), "do not tile 40x40: set data.image_size to 32 or 48"),
        ("vit_b_16", DataSpec(3, 32, 48, 10), "square"),
        ("inception_v3", CIFAR, "cannot take images of 3x32x32"),
    ],
)
def test_a_torchvision_model_that_does_not_fit_says_why(name, spec, message):
    with torch.device("meta"), pytest.raises(RecipeError, match=message):
        build_model(TorchvisionConfig(name=f"torchvision:{name}"), spec)


@pytest.mark.parametrize("name", ["torchvision", "torchvision:", "timm:x", "torchvision:../x"])
def test_a_torchvision_name_has_a_variant(name):
    with pytest.raises(ValidationError, match="name"):
        TorchvisionConfig(name=name)


@pytest.mark.parametrize(
    ("variant", "found"),
    [
        ("vit_tiny_patch16_224", ("tokens", *(f"blocks.{i}" for i in range(12)))),
        ("resnet18", ()),
        ("convnext_atto", ()),
    ],
)
def test_timm_models_fit_the_data(variant, found):
    pytest.importorskip("timm")
    model = build_model(TimmConfig(name=f"timm:{variant}"), DataSpec(1, 64, 64, 7))
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert slots(model) == found


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("vit_tinny_patch16_224", 64, "Did you mean 'vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224", 40, "do not tile 40x40: set data.image_size to 32 or 48"),
        ("convnext_atto", 16, "cannot take images of 3x16x16"),
    ],
)
def test_a_timm_model_that_does_not_fit_says_why(name, side, message):
    pytest.importorskip("timm")
    with pytest.raises(RecipeError, match=message):
        build_model(TimmConfig(name=f"timm:{name}"), DataSpec(3, side, side, 10))


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match=r"pip install 'prunekit\[timm\]'"):
        build_model(TimmConfig(name="timm:resnet18"), CIFAR)


# --- start weights ------------------------------------------------------------------------------


def offline(*_args, **_kwargs):
    raise URLError("Name or service not known")


def test_stock_weights_that_cannot_be_downloaded_are_a_data_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    config = TorchvisionConfig(name="torchvision:squeezenet1_1", init="pretrained")
    with pytest.raises(DataError, match=r"SqueezeNet1_1_Weights.* could not be downloaded"):
        build_model(config, CIFAR)
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError, match="could not be downloaded"):
        build_model(TimmConfig(name="timm:resnet18", init="pretrained"), CIFAR)


def publish(monkeypatch, variant, weights):
    """Let torchvision serve these as the weights of a model."""
    kind = torchvision.models.get_model_weights(variant)
    monkeypatch.setattr(kind, "get_state_dict", lambda *_args, **_kwargs: dict(weights))


def test_pretrained_loads_all_but_a_classifier_of_another_size(monkeypatch):
    torch.manual_seed(1)
    stock = torchvision.models.squeezenet1_1().state_dict()
    publish(monkeypatch, "squeezenet1_1", stock)
    config = TorchvisionConfig(name="torchvision:squeezenet1_1", init="pretrained")
    for classes in (10, 1000):
        torch.manual_seed(2)
        model = build_model(config, DataSpec(3, 64, 64, classes)).state_dict()
        loaded = [name for name in stock if torch.equal(model[name], stock[name])]
        left = {"classifier.1.weight", "classifier.1.bias"} if classes == 10 else set()
        assert set(stock) - set(loaded) == left


@pytest.mark.slow
def test_pretrained_positions_are_resized_to_the_image(monkeypatch):
    torch.manual_seed(1)
    stock = torchvision.models.vit_b_32(num_classes=1000).state_dict()
    publish(monkeypatch, "vit_b_32", stock)
    config = TorchvisionConfig(name="torchvision:vit_b_32", init="pretrained")
    model = build_model(config, DataSpec(3, 64, 64, 10)).state_dict()
    assert model["encoder.pos_embedding"].shape == (1, 5, 768)
    assert torch.equal(model["encoder.pos_embedding"][:, 0], stock["encoder.pos_embedding"][:, 0])
    assert torch.equal(model["conv_proj.weight"], stock["conv_proj.weight"])


def test_stock_weights_of_another_model_are_refused_untouched():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10))
    before = copy.deepcopy(model.state_dict())
    other = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1000)).state_dict()
    with pytest.raises(RecipeError, match=r"do not fit at 0\.weight"):
        copy_all_but_classifier(model, other, 1000)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_pretrained_weights_need_three_channels():
    config = TorchvisionConfig(name="torchvision:resnet18", init="pretrained")
    with pytest.raises(RecipeError, match="3 channels, the data has 1"):
        build_model(config, DataSpec(1, 64, 64, 10))


@pytest.mark.parametrize("config", [ViTConfig, MLPConfig])
def test_our_models_have_no_stock_weights(config):
    with pytest.raises(ValidationError, match="no stock weights"):
        config.model_validate({"name": config.model_fields["name"].annotation.__args__[0],
                               "init": "pretrained"})  # fmt: skip


def test_start_weights_from_a_file(tmp_path):
    path = tmp_path / "start.safetensors"
    source = build_model(MLPConfig(name="mlp"), TINY)
    save_file(source.state_dict(), path)
    model = build_model(MLPConfig(name="mlp", init=str(path)), TINY)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_start_weights_from_a_run(tmp_path):
    source = build_model(MLPConfig(name="mlp"), TINY)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "resolved.yaml").touch()
    model = build_model(MLPConfig(name="mlp", init=str(tmp_path)), TINY)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_start_weights_of_another_model_are_refused_untouched(tmp_path):
    path = tmp_path / "start.safetensors"
    save_file(build_model(MLPConfig(name="mlp", hidden=(300, 99)), TINY).state_dict(), path)
    model = build_model(MLPConfig(name="mlp"), TINY)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"start\.safetensors: .*fc2\.weight"):
        load_initial(model, str(path))
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_start_weights_that_cannot_be_read(tmp_path):
    path = tmp_path / "start.safetensors"
    model = build_model(MLPConfig(name="mlp"), TINY)
    with pytest.raises(CheckpointError, match="no such file"):
        load_initial(model, str(path))
    save_file(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_initial(model, str(path))
    with pytest.raises(CheckpointError, match="run"):
        load_initial(model, str(tmp_path / "nowhere"))
