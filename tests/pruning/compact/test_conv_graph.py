"""Channels that are empty leave a model, and its logits stay; others stay, with the reason."""

import copy
import sys

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from prunekit.errors import RemovalError, UsageError
from prunekit.models.saved import load_model, model_metadata, write_model
from prunekit.pruning.compact.conv_graph import without_closed
from prunekit.pruning.compact.zero_inputs import zero_inputs
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from tests.support.dead_channels import CLASSES, close, lived_in, stock

SHAPE = (3, 8, 8)
WHOLE = ("torchvision:squeezenet1_1",)
"""Nothing is summed in these: every closed channel goes."""
SUMMED = ("torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:test_byobnet",
          "timm:dla46_c")  # fmt: skip
ODD = ("timm:test_nfnet", "timm:test_mambaout", "timm:test_efficientnet_gn",
       "timm:test_efficientnet_evos")  # fmt: skip
"""Of these less goes than is empty: groups, norms over channels, widths in the code."""
MORE_WHOLE = ("torchvision:densenet121", "torchvision:googlenet", "timm:vovnet39a")
MORE = ("torchvision:mobilenet_v2", "torchvision:mnasnet0_5", "torchvision:efficientnet_b0",
        "torchvision:regnet_y_400mf", "timm:mobilenetv3_small_050", "timm:seresnet18",
        "timm:hrnet_w18_small", "timm:resnet10t", "timm:darknet17", "timm:resnetblur18",
        "timm:ghostnet_050", "timm:repvgg_a0", "timm:cspresnet50")  # fmt: skip
"""Of the kinds above, in minutes."""


def marked(names, mark):
    return [pytest.param(name, marks=mark) for name in names]


def logits(model, shape, seed=5):
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(images)


def check(model, closed, found, shape):
    """The same logits, and as many output channels as are told."""
    before, after = logits(model, shape), logits(found.model, shape)
    assert before.std(0).max() > 1e-7 * before.abs().max()
    assert (before - after).abs().max() <= 1e-9 * before.abs().max()
    for path, module in found.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            old = model.get_submodule(path)
            lost = found.removed.get(f"{path}.weight", 0)
            assert len(module.weight) == len(old.weight) - lost
            width = "out_channels" if isinstance(module, nn.Conv2d) else "out_features"
            assert getattr(module, width) == len(module.weight)
    for name, rows in closed.items():
        assert name in found.stayed or found.removed.get(name, 0) >= len(rows)
    assert all("\n" not in reason for reason in found.stayed.values())


def check_file(model, name, shape, path):
    """It is built again from its file, with the widths that are left, bit for bit."""
    config, spec = MODELS.parse({"name": name}), DataSpec(*shape, CLASSES)
    write_model(path, model, {}, model_metadata(model, config, [], spec))
    loaded = load_model(path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in model.state_dict().items())
    assert torch.equal(logits(loaded, shape), logits(model, shape))


@pytest.mark.parametrize(
    "name",
    [
        "timm:test_resnet",
        "timm:test_efficientnet",
        "timm:test_convnext",
        *marked(SUMMED + ODD, pytest.mark.slow),
        *marked(MORE, pytest.mark.soak),
    ],
)
def test_the_logits_of_a_stock_model_stay(name, tmp_path):
    side = 64 if name in MORE else 32
    model, shape = stock(name, side), (3, side, side)
    closed = close(model, shape)
    found = without_closed(model, closed, shape)
    check(model, closed, found, shape)
    assert found.removed
    assert found.stayed
    if name in (*SUMMED, "timm:test_convnext"):
        check_file(found.model, name, shape, tmp_path / "m")


@pytest.mark.parametrize(
    "name", marked(WHOLE, pytest.mark.slow) + marked(MORE_WHOLE, pytest.mark.soak)
)
def test_without_sums_all_that_is_empty_goes(name, tmp_path):
    model, shape = stock(name), (3, 64, 64)
    closed = close(model, shape)
    found = without_closed(model, closed, shape)
    check(model, closed, found, shape)
    assert found.removed == {name: len(rows) for name, rows in closed.items() if len(rows)}
    assert not found.stayed
    if name == "torchvision:densenet121":
        check_file(found.model, name, shape, tmp_path / "m")


class Net(nn.Module):
    """conv - norm, then what a test makes of it, then a pool and a head of 5."""

    def __init__(self, width=6, middle=None, last=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.middle = nn.Identity() if middle is None else middle
        self.last = nn.Conv2d(width, 4, 1) if last is None else last
        self.head = nn.Linear(self.last.out_channels, 5)

    def forward(self, x):
        x = self.middle(self.norm(self.conv(x)).relu())
        return self.head(self.last(x).mean((2, 3)))


class Branch(nn.Module):
    """x + norm(conv(x))."""

    def __init__(self, width=6):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x))


class Gate(nn.Module):
    """x * sigmoid(fc(mean of x))."""

    def __init__(self, width=6):
        super().__init__()
        self.squeeze, self.fc = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)

    def forward(self, x):
        return x * self.fc(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Rolled(nn.Module):
    """Each channel with its neighbour."""

    def forward(self, x):
        return x + x.roll(1, 1)


@torch.no_grad()
def shut(conv, norm, rows):
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias):
        tensor[rows] = 0


def test_of_a_sum_a_channel_goes_where_all_are_empty():
    model = lived_in(Net(middle=Branch()), SHAPE)
    shut(model.conv, model.norm, [0, 1, 2])
    shut(model.middle.conv, model.middle.norm, [1, 2, 3])
    closed = {"conv.weight": torch.tensor([0, 1, 2]), "middle.conv.weight": torch.tensor([1, 2, 3])}
    found = without_closed(model, closed, SHAPE)
    check(model, closed, found, SHAPE)
    assert found.removed == {"conv.weight": 2, "middle.conv.weight": 2}
    assert found.stayed == {
        "conv.weight": "they meet channels of middle.conv that are not empty",
        "middle.conv.weight": "they meet channels of conv that are not empty",
    }


def test_a_gate_goes_with_what_it_multiplies():
    model = lived_in(Net(middle=Gate()), SHAPE)
    shut(model.conv, model.norm, [0, 4])
    found = without_closed(model, {"conv.weight": torch.tensor([0, 4])}, SHAPE)
    check(model, {}, found, SHAPE)
    assert found.removed == {"conv.weight": 2, "middle.fc.weight": 2}
    assert found.model.middle.squeeze.in_channels == 4


def test_what_feeds_only_an_empty_depthwise_channel_goes_with_it():
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    model = lived_in(Net(middle=nn.Sequential(depthwise, nn.BatchNorm2d(6))), SHAPE)
    shut(depthwise, model.middle[1], [2])
    closed = {"middle.0.weight": torch.tensor([2])}
    found = without_closed(model, closed, SHAPE)
    check(model, closed, found, SHAPE)
    assert found.removed == {"conv.weight": 1, "middle.0.weight": 1}
    small = found.model.middle[0]
    assert (small.in_channels, small.out_channels, small.groups) == (5, 5, 5)


def test_a_channel_that_gives_a_constant_behind_its_norm_stays():
    model = lived_in(Net(), SHAPE)
    shut(model.conv, model.norm, [1])
    with torch.no_grad():
        model.norm.bias[1] = 0.5
    found = without_closed(model, {"conv.weight": torch.tensor([1])}, SHAPE)
    assert found.model is model
    assert found.stayed == {"conv.weight": "last reads more there than zeros"}


@pytest.mark.parametrize(
    ("middle", "last", "reason"),
    [
        (nn.GroupNorm(2, 6), None, "middle takes its statistics over several channels"),
        (None, nn.Conv2d(6, 4, 1, groups=2), "last is a convolution in 2 groups"),
        (None, nn.Conv2d(6, 12, 1, groups=6), "last is a convolution in 6 groups"),
        (Rolled(), None, "last reads more there than zeros"),
        (nn.LocalResponseNorm(3, alpha=9.0), None, "without them the logits differ by"),
    ],
)
def test_what_cannot_go_stays_with_the_reason(middle, last, reason):
    model = Net(middle=middle, last=last)
    model = lived_in(model, SHAPE)
    rows = torch.tensor([1, 4])
    shut(model.conv, model.norm, rows)
    found = without_closed(model, {"conv.weight": rows}, SHAPE)
    check(model, {"conv.weight": rows}, found, SHAPE)
    assert not found.removed
    assert found.stayed["conv.weight"].startswith(reason)


class Borrowing(Net):
    """Multiplies by a layer's weight without calling the layer."""

    def forward(self, x):
        x = nn.functional.conv2d(self.norm(self.conv(x)).relu(), self.last.weight)
        return self.head(x.mean((2, 3)))


def test_what_reads_a_channel_unseen_keeps_it():
    model, rows = lived_in(Borrowing(), SHAPE), torch.tensor([1, 4])
    shut(model.conv, model.norm, rows)
    found = without_closed(model, {"conv.weight": rows}, SHAPE)
    assert found.model is model
    assert found.stayed.keys() == {"conv.weight"}
    found = without_closed(model, {"last.weight": torch.tensor([1])}, SHAPE)
    assert found.stayed == {"last.weight": "last is not called as a module"}


def test_classes_are_no_channels():
    model = lived_in(Net(), SHAPE)
    with torch.no_grad():
        model.head.weight[1], model.head.bias[1] = 0, 0
    found = without_closed(model, {"head.weight": torch.tensor([1])}, SHAPE)
    assert found.stayed == {"head.weight": "they are outputs of the model"}


def test_a_layer_keeps_one_channel():
    model = lived_in(Net(), SHAPE)
    rows = torch.arange(6)
    shut(model.conv, model.norm, rows)
    found = without_closed(model, {"conv.weight": rows}, SHAPE)
    assert found.model.conv.out_channels == 1
    assert found.stayed == {"conv.weight": "all channels of conv are empty, and it keeps one"}
    torch.testing.assert_close(logits(found.model, SHAPE), logits(model, SHAPE))


def test_a_part_that_fails_does_not_keep_the_rest():
    first = nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.LocalResponseNorm(3, alpha=9.0))
    model = lived_in(Net(middle=nn.Sequential(*first, nn.Conv2d(8, 6, 1))), SHAPE)
    rows = torch.tensor([0, 2])
    shut(model.conv, model.norm, rows)
    shut(model.middle[0], model.middle[1], rows)
    closed = {"middle.0.weight": rows, "conv.weight": rows}
    found = without_closed(model, closed, SHAPE)
    check(model, closed, found, SHAPE)
    assert found.removed == {"conv.weight": 2}
    assert found.stayed.keys() == {"middle.0.weight"}


@settings(max_examples=10)
@given(
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    share=st.sampled_from([0.0, 0.3, 0.8]),
    seed=st.integers(0, 9),
)
def test_a_chain_loses_all_its_empty_channels(widths, share, seed):
    layers, inputs = [], 3
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inputs * 16, 7))
    model = lived_in(model, SHAPE)
    closed = close(model, SHAPE, share, seed)
    found = without_closed(model, closed, SHAPE)
    torch.testing.assert_close(logits(found.model, SHAPE), logits(model, SHAPE))
    assert found.removed == {name: len(rows) for name, rows in closed.items() if len(rows)}
    assert model[0].out_channels == widths[0]


def test_modes_and_what_learns_stay():
    model = lived_in(Net(), SHAPE).train()
    model.norm.eval()
    model.conv.bias.requires_grad_(False)
    shut(model.conv, model.norm, [3])
    found = without_closed(model, {"conv.weight": torch.tensor([3])}, SHAPE)
    assert found.model.training
    assert not found.model.norm.training
    assert not found.model.conv.bias.requires_grad
    assert found.model.conv.weight.requires_grad


def test_it_works_without_gradients_and_for_a_frozen_model():
    model = lived_in(Net(), SHAPE).requires_grad_(False)
    shut(model.conv, model.norm, [3])
    with torch.no_grad():
        found = without_closed(model, {"conv.weight": torch.tensor([3])}, SHAPE)
    assert found.removed == {"conv.weight": 1}
    assert not any(p.requires_grad for p in found.model.parameters())


def test_without_the_library_its_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UsageError, match=r"pip install 'prunekit\[removal\]'"):
        without_closed(Net(), {"conv.weight": torch.tensor([3])}, SHAPE)


def test_an_error_of_the_library_is_one_line(monkeypatch):
    import torch_pruning

    def broken(*args, **kwargs):
        raise KeyError("no such\nnode")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", broken)
    with pytest.raises(RemovalError, match=r"^KeyError: 'no such.*node'$"):
        without_closed(lived_in(Net(), SHAPE), {"conv.weight": torch.tensor([3])}, SHAPE)


def test_zeros_by_chance_are_no_zeros():
    """A unit that no image wakes is not empty: other weights would."""
    model = lived_in(Net(), SHAPE)
    with torch.no_grad():
        model.norm.bias.fill_(-100.0)
        model.conv.weight[2], model.conv.bias[2] = 0, 0
        model.norm.weight[2], model.norm.bias[2] = 0, 0
    assert zero_inputs(model, SHAPE)["last"].tolist() == [n == 2 for n in range(6)]
