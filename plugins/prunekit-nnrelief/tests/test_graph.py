"""Which models can be followed, and what is said of the others."""

import pytest
import torch
import torch.nn.functional as F
from nnrelief_nets import BLOCKS, Block, core_model
from prunekit_nnrelief.graph import trace
from torch import nn

from prunekit import RecipeError


class Calls(nn.Module):
    """One layer and a function behind it."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.fc(x))


class Twice(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(self.module(x))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.scale


def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branching(), "cannot trace Branching"),
        (Calls(lambda x: torch.cat([x, x])), "calls cat"),
        (Calls(lambda x: x * 2), "calls mul"),
        (Calls(lambda x: x + 1), "calls add"),
        (Calls(lambda x: x[0]), "calls getitem"),
        (Calls(lambda x: F.pad(x, (1, 1))), "calls pad"),
        (Calls(lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), value=1.0)), "calls pad"),
        (Calls(lambda x: F.pad(x, (0, 0, 0, 0, -1, 0))), "calls pad"),
        (Calls(lambda x: x.flatten(0)), "calls flatten"),
        (Calls(lambda x: torch.add(x, F.relu(x), alpha=2)), "calls add"),
        (OwnParameter(), "scale reads a tensor"),
        (Twice(nn.Linear(4, 4)), "module is used more than once"),
        (tied(), "2 shares weight with 0.weight"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "1 is a LayerNorm"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), "1 is a Sigmoid"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), "1 has no scale"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="reflect")), "0 pads by 'reflect'"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), "0 is a ConvTranspose2d"),
        (nn.Sequential(nn.Conv1d(1, 1, 3)), "0 is a Conv1d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_followed_is_refused(model, reason):
    with pytest.raises(RecipeError, match=reason) as caught:
        trace(model)
    assert "strategy nnrelief" in str(caught.value)


def test_two_sums_of_different_width_are_refused():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.four = nn.Linear(3, 1), nn.Linear(3, 4)

        def forward(self, x):
            return self.one(x) + self.four(x)

    with pytest.raises(RecipeError, match=r"adds . and . channels"):
        trace(Wide())


@pytest.mark.parametrize("name", ["mlp", "lenet_300_100", "lenet5", "vgg", "resnet"])
def test_the_models_that_come_with_prunekit_are_followed(name):
    model = core_model(name)
    graph = trace(model)
    weights = [
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    assert [layer.weight for layer in graph.layers.values()] == weights
    assert [layer.weight for layer in graph.layers.values() if layer.is_output] == weights[-1:]
    norms = [f"{p}.weight" for p, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    found = [n for layer in graph.layers.values() for n in layer.norm_parameters]
    assert [n for n in found if n.endswith(".weight")] == norms


@pytest.mark.parametrize("shortcut", BLOCKS)
def test_the_terms_of_a_residual_sum_know_each_other(shortcut):
    layers = {layer.path: layer for layer in trace(Block(shortcut)).layers.values()}
    branch = layers["conv2"]
    assert branch.end.name == "bn2"
    assert branch.partner is not branch.end
    if shortcut == "projection":
        assert branch.partner is layers["shortcut.0"].end
        assert layers["shortcut.0"].partner is branch.end
    assert layers["conv1"].partner is layers["conv1"].end


def test_tracing_leaves_the_model_alone():
    model = core_model("resnet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, training = type(model), [m.training for m in model.modules()]
    trace(model)
    assert type(model) is kept
    assert [m.training for m in model.modules()] == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
