"""LeNets, VGG and residual networks: what they compute, what they count, what is left of them."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings as hypothesis_settings, strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML
from torch import nn
from torch.testing import assert_close

from prunekit.errors import RecipeError
from prunekit.models import build_model
from prunekit.models.cost import Macs, count_macs
from prunekit.models.resnet import BasicBlock, PadShortcut
from prunekit.models.wrn import WideBlock
from prunekit.pruning.distributions import Demand, Uniform
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.pruning.structures import Channel
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from tests.support.training import with_steps

MNIST = DataSpec(channels=1, height=28, width=28, classes=10)
SMALL = DataSpec(channels=3, height=16, width=20, classes=4)
IMAGE = (3, 16, 20)
DOCS = Path(__file__).parents[2] / "docs/models.md"

width = st.integers(1, 6)


def widths(count):
    return st.lists(width, min_size=count, max_size=count)


CONFIGS = {
    "mlp": st.fixed_dictionaries({"hidden": st.lists(width, max_size=3)}),
    "lenet_300_100": st.fixed_dictionaries({"widths": widths(2)}),
    "lenet5": st.fixed_dictionaries({"widths": widths(3)}),
    "vgg": st.fixed_dictionaries({"depth": st.just(11), "widths": widths(8)}),
    "resnet": st.fixed_dictionaries(
        {"depth": st.just(14), "stages": widths(3).map(sorted), "widths": widths(6)}
    ),
    "wrn": st.fixed_dictionaries(
        {"depth": st.just(16), "stem": width, "stages": widths(3), "widths": widths(6)}
    ),
}
every_model = pytest.mark.parametrize("name", CONFIGS)


def configure(name, **settings):
    return MODELS.parse({"name": name} | settings)


def build(config, spec=SMALL, seed=0):
    torch.manual_seed(seed)
    return build_model(config, spec)


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def stir(model):
    """Give every BatchNorm statistics and gains of its own; returns the model in evaluation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 2)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_()
    return model.eval()


# --- what the papers say ------------------------------------------------------------------------


def rows():
    found = re.findall(
        r"^\| `(\{.*?\})` \| .* \| (\d+)x(\d+)x(\d+) \| ([\d,]+) \| ([\d,]+) \|",
        DOCS.read_text(),
        re.M,
    )
    return [(text, *(int(n.replace(",", "")) for n in numbers)) for text, *numbers in found]


@pytest.mark.parametrize(("text", "c", "h", "w", "parameters", "macs"), rows())
def test_the_table_in_the_docs(text, c, h, w, parameters, macs):
    config = MODELS.parse(YAML(typ="safe", pure=True).load(text))
    with torch.device("meta"):
        model = build_model(config, DataSpec(c, h, w, 10))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert count_macs(model, (c, h, w)).dense == macs
    assert model(torch.empty(2, c, h, w, device="meta")).shape == (2, 10)


def test_the_table_has_every_model_of_ours():
    assert {re.search(r"name: (\w+)", text)[1] for text, *_ in rows()} == {*CONFIGS, "vit"}


@pytest.mark.parametrize(
    ("settings", "millions", "mega_macs"),
    [
        ({"name": "lenet5"}, 0.43, 2.3),
        ({"name": "resnet", "depth": 20}, 0.27, 41),
        ({"name": "resnet", "depth": 32}, 0.46, 69),
        ({"name": "resnet", "depth": 44}, 0.66, 97),
        ({"name": "resnet", "depth": 56}, 0.85, 126),
        ({"name": "resnet", "depth": 110}, 1.7, 253),
        ({"name": "wrn", "depth": 40, "widen_factor": 1}, 0.6, 83.3),
        ({"name": "wrn", "depth": 40, "widen_factor": 4}, 8.9, 1300),
        ({"name": "wrn", "depth": 16, "widen_factor": 8}, 11.0, 1550),
        ({"name": "wrn", "depth": 22, "widen_factor": 8}, 17.2, 2450),
        ({"name": "wrn", "depth": 28, "widen_factor": 10}, 36.5, 5240),
        ({"name": "wrn", "depth": 28, "widen_factor": 12}, 52.5, 7560),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_published_sizes(settings, millions, mega_macs):
    """Parameters as in table 6 of arXiv:1512.03385 and table 4 of arXiv:1605.07146; multiply-adds
    as commonly quoted."""
    spec = MNIST if settings["name"] == "lenet5" else DataSpec(3, 32, 32, 10)
    with torch.device("meta"):
        model = build_model(MODELS.parse(settings), spec)
    digits = len(str(millions).partition(".")[2])
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, digits) == millions
    macs = count_macs(model, (spec.channels, spec.height, spec.width)).dense
    assert macs / 1e6 == pytest.approx(mega_macs, rel=0.015)


def test_multiply_adds_of_a_tiny_vgg_by_hand():
    widths = [2, 3, 1, 2, 3, 1, 2, 4]
    model = build(configure("vgg", depth=11, widths=widths), DataSpec(3, 32, 16, 5))
    positions = [512, 128, 32, 32, 8, 8, 2, 2]  # 32x16, a pool, 16x8, a pool, 8x4, 8x4, ...
    taps = [9 * 3, 9 * 2, 9 * 3, 9 * 1, 9 * 2, 9 * 3, 9 * 1, 9 * 2]  # inputs of a filter
    dense = sum(p * t * w for p, t, w in zip(positions, taps, widths, strict=True)) + 4 * 5
    assert dense == 27648 + 6912 + 864 + 576 + 432 + 216 + 36 + 144 + 20
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    masks["conv2.weight"][1] = False  # 18 entries at 128 positions
    masks["bn2.weight"][1] = False  # a norm multiplies nothing that counts
    masks["fc.weight"][:, 3] = False
    assert count_macs(model, (3, 32, 16), masks) == Macs(dense, dense, dense - 18 * 128 - 5)


def test_multiply_adds_of_a_strided_block_by_hand():
    spec = DataSpec(1, 8, 6, 2)
    model = build(configure("resnet", depth=8, stages=[1, 2, 2], widths=[3, 1, 4]), spec)
    first = 48 * (9 * 1 + 9 * 3 * 1 + 9 * 3)  # the stem, then 1 -> 3 -> 1 at 8x6
    second = 12 * (9 * 1 + 9 * 2)  # 1 -> 1 -> 2 at 4x3
    third = 4 * (9 * 2 * 4 + 9 * 4 * 2)  # 2 -> 4 -> 2 at 2x2
    assert count_macs(model, (1, 8, 6)).dense == first + second + third + 2 * 2


def test_lenet_300_100_is_the_mlp_of_its_widths():
    ours, theirs = build(configure("lenet_300_100"), MNIST), build(configure("mlp"), MNIST)
    assert shapes(ours) == shapes(theirs)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


# --- what they compute --------------------------------------------------------------------------


def test_lenet5_in_functions():
    model, x = build(configure("lenet5", widths=[3, 4, 5])), torch.randn(2, *IMAGE)
    p = dict(model.named_parameters())
    first = F.max_pool2d(F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"])), 2)
    second = F.max_pool2d(F.relu(F.conv2d(first, p["conv2.weight"], p["conv2.bias"])), 2)
    assert (first.shape, second.shape) == ((2, 3, 6, 8), (2, 4, 1, 2))
    hidden = F.relu(F.linear(second.flatten(1), p["fc1.weight"], p["fc1.bias"]))
    assert_close(model(x), F.linear(hidden, p["fc2.weight"], p["fc2.bias"]))


@pytest.mark.parametrize(("depth", "letter"), [(11, "A"), (13, "B"), (16, "D"), (19, "E")])
def test_vgg_is_torchvisions_up_to_the_last_pooling(depth, letter):
    narrow = [n if n == "M" else n // 64 for n in torchvision.models.vgg.cfgs[letter]]
    ours = stir(build(configure("vgg", depth=depth, widths=[n for n in narrow if n != "M"])))
    theirs = torchvision.models.vgg.make_layers(narrow, batch_norm=True)[:-1].eval()
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    pairs = ([m for m in model if isinstance(m, kinds)] for model in (ours, theirs))
    for own, other in zip(*pairs, strict=True):
        nn.init.zeros_(other.bias)
        other.load_state_dict(own.state_dict(), strict=False)  # our convolutions have no bias
    x = torch.randn(2, *IMAGE)
    assert_close(ours(x), ours.fc(theirs(x).mean((2, 3))))


def normed(x, s, name):
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, s[f"{name}.weight"], s[f"{name}.bias"])


def test_resnet_in_functions():
    widths = [5, 3, 1, 2, 6, 7]
    model = stir(build(configure("resnet", depth=14, stages=[2, 5, 6], widths=widths)))
    s, x = model.state_dict(), torch.randn(2, *IMAGE)
    out = F.relu(normed(F.conv2d(x, s["conv1.weight"], padding=1), s, "bn1"))
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1)):
        first, second = s[f"{block}.conv1.weight"], s[f"{block}.conv2.weight"]
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        inner = F.relu(normed(F.conv2d(out, first, None, stride, 1), s, f"{block}.bn1"))
        branch = normed(F.conv2d(inner, second, padding=1), s, f"{block}.bn2")
        skip, front = torch.zeros_like(branch), (branch.shape[1] - out.shape[1]) // 2
        skip[:, front : front + out.shape[1]] = out[:, :, ::stride, ::stride]
        out = F.relu(branch + skip)
    assert out.shape == (2, 6, 4, 5)
    assert_close(model(x), F.linear(out.mean((2, 3)), s["fc.weight"], s["fc.bias"]))


def test_wrn_in_functions():
    """By figure 1(b) of arXiv:1605.07146, with the shortcut as its authors' code has it."""
    settings = {"stem": 3, "stages": [3, 5, 4], "widths": [5, 3, 1, 2, 6, 7]}
    model = stir(build(configure("wrn", depth=16, **settings)))
    s, x = model.state_dict(), torch.randn(2, *IMAGE)
    out = F.conv2d(x, s["conv1.weight"], padding=1)
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1)):
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        active = F.relu(normed(out, s, f"{block}.bn1"))
        inner = F.conv2d(active, s[f"{block}.conv1.weight"], None, stride, 1)
        branch = F.conv2d(
            F.relu(normed(inner, s, f"{block}.bn2")), s[f"{block}.conv2.weight"], padding=1
        )
        if stride == 2:
            out = F.conv2d(active, s[f"{block}.shortcut.weight"], stride=2)
        out = out + branch
    assert out.shape == (2, 4, 4, 5)
    out = F.relu(normed(out, s, "bn1"))
    assert_close(model(x), F.linear(out.mean((2, 3)), s["fc.weight"], s["fc.bias"]))


def test_a_shortcut_keeps_what_it_is_given():
    x = torch.arange(2.0 * 3 * 5).reshape(1, 2, 3, 5) + 1
    out = PadShortcut(added=3, stride=2)(x)
    assert out.shape == (1, 5, 2, 3)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()
    block = BasicBlock(4, 3, 4, stride=1)
    assert isinstance(block.shortcut, nn.Identity)


@pytest.mark.parametrize("name", ["lenet5", "vgg", "resnet", "wrn"])
def test_kernels_start_as_he_et_al_draw_them(name):
    model = build(configure(name))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
            assert abs(module.weight.mean().item()) < 0.03 * (2 / fan_in) ** 0.5


@every_model
def test_a_seed_gives_one_model(name):
    config = configure(name)
    first, again, other = (build(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


@every_model
def test_a_model_can_be_traced_symbolically(name):
    model, x = stir(build(configure(name))), torch.randn(2, *IMAGE)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("name", ["lenet5", "vgg"])
def test_an_image_that_pooling_would_use_up_is_refused(name):
    with pytest.raises(RecipeError, match=rf"{name} takes images of 16x16.*not 20x15: set"):
        build(configure(name), DataSpec(1, 20, 15, 3))
    model = build(configure(name), DataSpec(1, 20, 16, 3)).eval()
    assert model(torch.randn(1, 1, 20, 16)).shape == (1, 3)


@pytest.mark.parametrize("side", [1, 5, 33])
@pytest.mark.parametrize(("name", "depth"), [("resnet", 8), ("wrn", 10)])
def test_a_residual_network_takes_any_image(name, depth, side):
    model = stir(build(configure(name, depth=depth), DataSpec(1, side, side, 3)))
    assert torch.isfinite(model(torch.randn(2, 1, side, side))).all()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vgg", "widths": [8] * 8}, "8 widths for the 13 convolutions of depth 16: give"),
        ({"name": "vgg", "depth": 11, "widths": []}, "0 widths for the 8 convolutions of depth 11"),
        ({"name": "vgg", "depth": 12}, "should be 11, 13, 16 or 19"),
        ({"name": "resnet", "widths": [16] * 27}, "27 widths for the 9 blocks of depth 20"),
        ({"name": "resnet", "depth": 21}, r"21 is not 6n \+ 2: use 20 or 26"),
        ({"name": "resnet", "stages": [8, 4, 8]}, "fewer channels than the one before"),
        ({"name": "wrn", "widths": [16] * 8}, "8 widths for the 9 blocks of depth 22"),
        ({"name": "wrn", "depth": 20}, r"20 is not 6n \+ 4: use 16 or 22"),
        ({"name": "lenet5", "widths": [20, 50]}, "widths"),
        ({"name": "lenet_300_100", "widths": [0, 100]}, "widths"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message) as caught:
        MODELS.parse(settings)
    assert caught.value.error_count() == 1


# --- sized_as -----------------------------------------------------------------------------------


@every_model
@with_steps
@given(data=st.data())
def test_the_config_of_a_model_builds_it_again(name, data):
    config = configure(name, **data.draw(CONFIGS[name]))
    model = build(config)
    keys = ("depth", "stem", "stages")
    fixed = {key: getattr(config, key) for key in keys if hasattr(config, key)}
    again = configure(name, **fixed).sized_as(model)
    assert shapes(build(again)) == shapes(model)
    assert config.sized_as(model) == config
    assert MODELS.parse(again.model_dump()) == again


@every_model
def test_the_config_of_an_untouched_model_is_its_own(name):
    config = configure(name)
    assert config.sized_as(build(config, MNIST)) == config


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "vgg", "resnet", "wrn"])
def test_a_model_of_another_kind_changes_no_config(name):
    config = configure(name)
    assert config.sized_as(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(3, 2))) == config
    assert config.sized_as(nn.Identity()) == config


def keep_rows(layer, rows):
    """Leave only these outputs of a layer or channels of a BatchNorm."""
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[rows]))
    for name in ("running_mean", "running_var"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name)[rows])


def keep_columns(layer, columns):
    layer.weight = nn.Parameter(layer.weight.detach()[:, columns])


def chains(model):
    """Each removable layer -> its BatchNorm or None, and the layer that reads it."""
    if any(isinstance(m, BasicBlock) for m in model.modules()):
        blocks = [(n, m) for n, m in model.named_modules() if isinstance(m, BasicBlock)]
        return {f"{name}.conv1": (block.bn1, block.conv2) for name, block in blocks}
    if any(isinstance(m, WideBlock) for m in model.modules()):
        wide = [(n, m) for n, m in model.named_modules() if isinstance(m, WideBlock)]
        return {f"{name}.conv1": (block.bn2, block.conv2) for name, block in wide}
    layers = [(n, m) for n, m in model.named_children() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = {n: m for n, m in model.named_children() if isinstance(m, nn.BatchNorm2d)}
    return {
        name: (norms.get(name.replace("conv", "bn")), reader)
        for (name, _), (_, reader) in pairwise(layers)
    }


def cut(model, masks):
    """Take the closed channels out by hand; a flattened channel is several columns."""
    for name, (norm, reader) in chains(model).items():
        layer = model.get_submodule(name)
        kept = masks[f"{name}.weight"].flatten(1).any(1)
        each = reader.weight.shape[1] // len(kept)
        keep_rows(layer, kept)
        if norm is not None:
            keep_rows(norm, kept)
        keep_columns(reader, kept.repeat_interleave(each))


@every_model
@pytest.mark.parametrize("seed", range(3))
def test_closed_channels_can_be_cut_out_and_the_rest_computes_the_same(name, seed):
    """What structures close is what surgery removes, and `sized_as` builds what is left."""
    small = {"vgg": {"depth": 11, "widths": [4, 5, 6, 4, 5, 6, 4, 5]}, "resnet": {"depth": 14}}
    small |= {"wrn": {"depth": 10, "widen_factor": 1}}
    small |= {"lenet5": {"widths": [4, 5, 6]}, "mlp": {"hidden": [6, 5]}}
    config = configure(name, **small.get(name, {}))
    model, x = stir(build(config, seed=seed)), torch.randn(2, *IMAGE)
    names = [f"{layer}.weight" for layer in chains(model)]
    scores = {n: torch.rand(model.get_parameter(n).shape) for n in names}
    masks = Channel().select(model, Demand(scores, 0.4, min_keep=1), Uniform())
    with torch.no_grad():
        for parameter, mask in masks.items():
            model.get_parameter(parameter).mul_(mask)
    closed = model(x)
    cut(model, masks)
    assert_close(model(x), closed)
    again = build(config.sized_as(model)).eval()
    assert shapes(again) != shapes(build(config))
    again.load_state_dict(model.state_dict(), strict=True)
    assert_close(again(x), closed)


# --- channels as units ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vgg", {"depth": 11, "widths": [4, 5, 6, 4, 5, 6, 4, 5]}),
        ("resnet", {"depth": 8, "stages": [4, 6, 6], "widths": [5, 3, 7]}),
    ],
)
def test_a_channel_of_a_convolution_takes_its_norm_along(name, settings):
    model = build(configure(name, **settings))
    kernels = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    units = Channel().units(model, [f"{path}.weight" for path in kernels])
    for path, layer in kernels.items():
        norm = path.replace("conv", "bn")
        parts = [part.name for part in units.groups[f"{path}.weight"].parts]
        assert parts == [f"{path}.weight", f"{norm}.weight", f"{norm}.bias"]
        assert units.sizes[f"{path}.weight"] == len(layer.weight)


@hypothesis_settings(max_examples=10)
@given(sparsity=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_filter_magnitude_on_a_residual_network(sparsity, seed):
    """Exact counts; a closed channel is 0 inside a block, and is the shortcut's alone behind it."""
    widths = [5, 3, 7]
    model = stir(build(configure("resnet", depth=8, stages=[4, 6, 6], widths=widths), seed=seed))
    chosen = strategy("filter_magnitude", sparsity=sparsity, scope={"exclude": ["fc.weight"]})
    pruner = Pruner(model, [chosen], total_steps=1)
    pruner.start()
    masks = pruner.masks()
    assert not any(name.startswith(("fc", "shortcut")) for name in masks)
    kept = {n: m.flatten(1).any(1) for n, m in masks.items() if m.ndim == 4}
    assert sum(int(rows.sum()) for rows in kept.values()) == keep_count(4 + 15 + 16, sparsity)
    pruner.finish()
    seen = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, out, path=path: seen.update({path: out}))
    model(torch.randn(2, *IMAGE))
    for name, rows in kept.items():
        path = name.removesuffix(".weight")
        assert not seen[path.replace("conv", "bn")][:, ~rows].any()
        if path.startswith("layer") and path.endswith("conv2"):
            block = path.removesuffix(".conv2")
            assert torch.equal(seen[block][:, ~rows], F.relu(seen[f"{block}.shortcut"][:, ~rows]))


def test_a_scope_names_the_channels_inside_blocks():
    model = build(configure("resnet", depth=14))
    scope = {"include": ["layer*.conv1.weight"]}
    pruner = Pruner(model, [strategy("filter_magnitude", sparsity=0.5, scope=scope)], total_steps=1)
    pruner.start()
    names = {name for name, mask in pruner.masks().items() if mask.ndim == 4}
    assert names == {
        f"layer{stage}.{index}.conv1.weight" for stage in (1, 2, 3) for index in (0, 1)
    }


@hypothesis_settings(max_examples=10)
@given(sparsity=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_filter_magnitude_on_a_vgg(sparsity, seed):
    widths = [4, 5, 6, 4, 5, 6, 4, 5]
    model = stir(build(configure("vgg", depth=11, widths=widths), seed=seed))
    chosen = strategy("filter_magnitude", sparsity=sparsity, scope={"exclude": ["fc.weight"]})
    pruner = Pruner(model, [chosen], total_steps=1)
    pruner.start()
    kept = {n: m.flatten(1).any(1) for n, m in pruner.masks().items() if m.ndim == 4}
    assert sum(int(rows.sum()) for rows in kept.values()) == keep_count(sum(widths), sparsity)
    pruner.finish()
    out = torch.randn(2, *IMAGE)
    for path, module in model.named_children():
        out = module(out)
        if path.startswith("relu"):
            rows = kept[path.replace("relu", "conv") + ".weight"]
            assert not out[:, ~rows].any()
