"""Stock models that have lost units are built again from their file, or it says no model."""

import copy
import json

import pytest
import torch
from torch import nn

from prunekit.errors import CheckpointError
from prunekit.models import build_model
from prunekit.models.attention import FewerHeadsAttention
from prunekit.models.bounds import without_values
from prunekit.models.file_metadata import CONFIG
from prunekit.models.resized import Sizes, fill_in, resize_model, sizes_left
from prunekit.models.saved import load_model, model_metadata, write_model
from prunekit.pruning.compact import compact
from prunekit.pruning.compact.conv_graph import without_closed
from prunekit.registry import COMPRESSORS, MODELS
from prunekit.registry.configs import DataSpec, ModelConfig
from prunekit.runs.packed import pack
from prunekit.runs.tensors import read_tensors, write_tensors
from tests.support.dead_channels import close, lived_in

STOCK = ("timm:test_resnet", "timm:test_efficientnet")
"""Other families are loaded where they get smaller (`tests/pruning/compact/test_conv_graph.py`)."""


def spec(channels=1, side=32):
    return DataSpec(channels=channels, height=side, width=side, classes=7)


def compacted(name, data):
    """A stock model without random channels, and its metadata."""
    torch.manual_seed(0)
    config = MODELS.parse({"name": name})
    model = lived_in(build_model(config, data), data.input_shape)
    closed = close(model, data.input_shape)
    found = without_closed(model, closed, data.input_shape)
    assert found.removed
    return found.model, model_metadata(found.model, config, [], data)


def written(name, folder):
    """A compacted model and its file."""
    model, metadata = compacted(name, spec())
    write_model(folder / "m.safetensors", model, {}, metadata)
    return model, folder / "m.safetensors"


@pytest.fixture(scope="module", params=STOCK)
def small(request, tmp_path_factory):
    return written(request.param, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return written("timm:test_resnet", tmp_path_factory.mktemp("resnet"))


def assert_the_same(loaded, model, data):
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    images = torch.randn(3, *data.input_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_a_compacted_model_is_loaded_bit_for_bit(small):
    model, path = small
    noise = torch.get_rng_state()
    assert_the_same(load_model(path), model, spec())
    assert torch.equal(noise, torch.get_rng_state())


def test_it_learns_on(resnet):
    model = load_model(resnet[1]).train()
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_it_is_loaded_from_a_packed_file_too(small, tmp_path):
    model, path = small
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter[parameter.abs() < 0.05] = 0
    tensors, metadata = pruned.state_dict(), read_tensors(path)[1]
    packed, more = pack(tensors)
    assert any(name.endswith(".bitmask") for name in packed)
    write_tensors(tmp_path / "m", packed, metadata | more)
    assert_the_same(load_model(tmp_path / "m"), pruned, spec())


def test_nothing_is_told_of_a_whole_model():
    config = MODELS.parse({"name": "timm:test_resnet"})
    model = build_model(config, spec())
    assert "sizes" not in json.loads(model_metadata(model, config, [], spec())[CONFIG])


def cut_hidden(mlp, kept):
    """Take hidden units out of fc1 and fc2, by hand."""
    mlp.fc1.weight = nn.Parameter(mlp.fc1.weight.detach()[:kept].clone())
    mlp.fc1.bias = nn.Parameter(mlp.fc1.bias.detach()[:kept].clone())
    mlp.fc2.weight = nn.Parameter(mlp.fc2.weight.detach()[:, :kept].clone())
    mlp.fc1.out_features = mlp.fc2.in_features = kept


@pytest.mark.slow
def test_a_transformer_with_a_compressor_is_built_again(tmp_path):
    from prunekit.models import attach

    config, data = MODELS.parse({"name": "timm:test_vit"}), spec(3, 64)
    tome = COMPRESSORS.parse({"name": "tome", "slot": "tokens", "ratio": 0.5})
    model = build_model(config, data)
    attach(model, "tokens", COMPRESSORS.create(tome), data.input_shape)
    cut_hidden(model.blocks[1].mlp, 5)
    metadata = model_metadata(model, config, [tome], data)
    write_model(tmp_path / "m", model, {}, metadata)
    loaded = load_model(tmp_path / "m")
    assert_the_same(loaded, model, data)
    assert loaded.blocks[1].mlp.fc1.out_features == 5
    assert loaded.blocks[0].mlp.fc1.out_features == model.blocks[0].mlp.fc1.out_features


def test_what_computes_something_else_when_built_again_has_no_metadata():
    config = MODELS.parse({"name": "timm:test_resnet"})
    model = lived_in(build_model(config, spec()), spec().input_shape)
    closed = close(model, spec().input_shape)
    found = without_closed(model, closed, spec().input_shape).model
    assert model_metadata(found, config, [], spec())
    found.bn1.eps = 0.5  # stands for a width in the code of a model
    assert model_metadata(found, config, [], spec()) == {}


class OwnConfig(ModelConfig):
    """An architecture of a user's own, without widths in its config."""

    name: str

    def build(self, spec):
        pixels = spec.channels * spec.height * spec.width
        layers = nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, spec.classes)
        return nn.Sequential(nn.Flatten(), *layers)


def test_a_model_of_ones_own_is_built_again(tmp_path):
    with MODELS.temporarily("own", OwnConfig):
        config = MODELS.parse({"name": "own"})
        torch.manual_seed(0)
        model = build_model(config, spec(side=4))
        with torch.no_grad():
            model[1].weight[2:5] = 0
            model[1].bias[2:5] = 0
        found = compact(model, input_shape=(1, 4, 4))
        metadata = model_metadata(found.model, config, [], spec(side=4))
        write_model(tmp_path / "m", found.model, {}, metadata)
        loaded = load_model(tmp_path / "m")
    assert loaded[1].out_features == 5
    assert_the_same(loaded, found.model, spec(side=4))


# ---- sizes by themselves


class Small(nn.Module):
    """One of each: grouped convolution, norm, attention, a tied and a plain parameter, counts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1, groups=4)
        self.norm, self.layer = nn.BatchNorm2d(8), nn.LayerNorm((8, 2))
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.first = nn.Linear(3, 6)
        self.second = nn.Linear(3, 6)
        self.second.weight = self.first.weight
        self.gain, self.window, self.flag = nn.Parameter(torch.ones(1, 8, 1)), (4, 4), True


def test_what_was_told_is_put_back():
    torch.manual_seed(0)
    model = Small()
    model.conv = nn.Conv2d(2, 4, 1, groups=2)
    model.norm, model.layer = nn.BatchNorm2d(5), nn.LayerNorm((7, 2))
    model.attention = FewerHeadsAttention(model.attention, 3)
    model.first, model.second = nn.Linear(3, 2), nn.Linear(3, 2)
    model.second.weight = model.first.weight
    model.gain, model.window = nn.Parameter(torch.ones(1, 3, 1)), (4, 2)
    sizes = sizes_left(model, Small())
    assert sizes.heads == {"attention": 3}
    assert sizes.attributes[""] == {"window": (4, 2)}
    assert sizes.attributes["conv"] == {"in_channels": 2, "out_channels": 4, "groups": 2}
    assert sizes.attributes["layer"] == {"normalized_shape": (7, 2)}
    again = Small()
    resize_model(again, Sizes.model_validate_json(sizes.model_dump_json()))
    assert again.second.weight is again.first.weight
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].shape == tensor.shape
    again.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 5, 8)
    for one, other in zip(again.attention(x, x, x), model.attention(x, x, x), strict=True):
        torch.testing.assert_close(one, other)
    assert [again.norm.num_features, again.layer.normalized_shape] == [5, (7, 2)]
    assert again.norm.running_mean.shape == (5,)


def test_parameters_without_values_stay_tied_and_are_filled_in():
    weights = Small().state_dict()
    with without_values(weights):
        model = Small()
    assert all(p.is_meta for p in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    fill_in(model, weights)
    assert not any(p.is_meta for p in model.parameters())
    assert model.second.weight is model.first.weight
    with without_values({}), pytest.raises(ValueError, match="larger model than its tensors"):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(40)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "conv", nn.Linear(2, 2)), "conv is another module"),
        (lambda m: setattr(m, "more", nn.Linear(2, 2)), "more is another module"),
        (lambda m: setattr(m, "norm", nn.BatchNorm2d(9)), r"\[9\] is not smaller than \[8\]"),
        (lambda m: m.register_parameter("extra", nn.Parameter(torch.ones(2))), "extra is in one"),
    ],
)
def test_another_model_has_no_sizes(change, message):
    model = Small()
    change(model)
    with pytest.raises(ValueError, match=message):
        sizes_left(model, Small())


# ---- files from elsewhere

CONV, NORM = "layer1.0.conv1.weight", "layer1.0.bn1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["tensors"].update({CONV: [1, 1, 3, 3]}), f"{CONV} is to be"),
        (lambda s: s["tensors"].update({CONV: [1, "x"]}), "valid integer"),
        (lambda s: s["tensors"].update({CONV: [10**30]}), "is beyond"),
        (lambda s: s["tensors"].update({CONV: [0, 1, 3, 3]}), "greater than or equal to 1"),
        (lambda s: s["tensors"].update({"no.such": [2]}), "and is missing in the file"),
        (lambda s: s["tensors"].pop(CONV), f"size mismatch: {CONV}"),
        (lambda s: s["tensors"].clear(), "size mismatch"),
        (lambda s: s.update(tensors=[1]), "valid dictionary"),
        (lambda s: s.update(code="x"), "not permitted"),
        (lambda s: s["attributes"].update({NORM: {"num_features": 10**6}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"no_such": 1}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"_parameters": 1}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"training": 1}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"eps": 1}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"forward": 1}}), "is not less"),
        (lambda s: s["attributes"].update({NORM: {"num_features": [1]}}), "is not less"),
        (lambda s: s["attributes"].update({"no.such": {"groups": 1}}), "has no module no.such"),
        (lambda s: s["heads"].update({"layer1": 1}), "layer1 is no MultiheadAttention"),
        (lambda s: s["heads"].update({"": 1}), "is no MultiheadAttention"),
        (lambda s: s["heads"].update({"no.such": 1}), "has no module no.such"),
    ],
)
def test_hostile_sizes_are_one_line(resnet, change, message, tmp_path):
    weights, metadata = read_tensors(resnet[1])
    settings = json.loads(metadata[CONFIG])
    change(settings["sizes"])
    write_tensors(tmp_path / "m", weights, {CONFIG: json.dumps(settings)})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_large_model_is_not_allocated_for_a_small_file(resnet, tmp_path, monkeypatch):
    """The stock model of these settings has 304 M parameters."""
    weights, metadata = read_tensors(resnet[1])
    settings = json.loads(metadata[CONFIG])
    settings["model"]["name"] = "torchvision:vit_l_16"
    write_tensors(tmp_path / "m", weights, {CONFIG: json.dumps(settings)})
    filled = []
    monkeypatch.setattr("prunekit.models.rebuilt.fill_in", lambda *args: filled.append(args))
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "m")
    assert not filled
