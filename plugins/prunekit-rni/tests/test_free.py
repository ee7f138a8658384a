"""Which channels are free."""

import pytest
import torch
import torch.nn.functional as F
from prunekit_rni.free import free_layers
from torch import nn

import prunekit


class Wired(nn.Module):
    """conv - bn, then whatever `wire` does with it."""

    def __init__(self, wire, **extra):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.next, self.fc = nn.Conv2d(4, 5, 1), nn.Linear(4, 2)
        self.wire = wire
        for name, module in extra.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.wire(self, self.bn(self.conv(x)), x)


def free(wire, **extra):
    return [layer.conv for layer in free_layers(Wired(wire, **extra))[0]]


def pooled(x):
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


FREE = {
    "relu and conv": lambda m, y, x: m.next(F.relu(y)),
    "two readers": lambda m, y, x: m.next(y.relu()) + m.other(y),
    "pool, flatten and linear": lambda m, y, x: m.fc(pooled(F.gelu(y))),
    "mean and linear": lambda m, y, x: m.fc(F.dropout(y, 0.1).mean((2, 3))),
    "mean by keyword": lambda m, y, x: m.fc(y.mean(dim=(-1, -2))),
    "modules": lambda m, y, x: m.next(m.pool(m.act(y))),
    "flatten with positions": lambda m, y, x: m.wide(y.flatten(1)),
}
BOUND = {
    "addition": (lambda m, y, x: m.next(y + m.other(x)), "enter an addition"),
    "addition in place": (lambda m, y, x: m.next(y.add_(m.other(x))), "enter an addition"),
    "output": (lambda m, y, x: F.relu(y), "are outputs of the model"),
    "concatenation": (lambda m, y, x: m.wide(torch.cat([y, y], 1)), "enter cat"),
    "sigmoid gives no zero": (lambda m, y, x: m.next(torch.sigmoid(y)), "enter sigmoid"),
    "depthwise": (lambda m, y, x: m.depth(y), "enter conv2d"),
    "linear over the width": (lambda m, y, x: m.fc(y), "enter linear"),
    "mean over channels": (lambda m, y, x: m.fc(y.mean((1, 2))), "enter mean"),
    "flatten with the batch": (lambda m, y, x: m.fc(torch.flatten(y)), "enter flatten"),
    "flatten but the width": (lambda m, y, x: m.fc(torch.flatten(y, 1, 2)), "enter flatten"),
    "module that flattens but the width": (lambda m, y, x: m.fc(m.rows(y)), "enter flatten"),
    "a reader of something else": (
        lambda m, y, x: m.next(y) + m.next(x),
        "enter next, which is used more than once",
    ),
    "one of two readers adds": (lambda m, y, x: m.next(y) + y.sum(), "enter sum"),
}


def layers():
    return {
        "other": nn.Conv2d(4, 5, 1), "act": nn.SiLU(), "pool": nn.MaxPool2d(2),
        "wide": nn.Linear(16, 2), "depth": nn.Conv2d(4, 4, 3, groups=4),
        "rows": nn.Flatten(1, 2),
    }  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_free(name):
    assert free(FREE[name], **layers()) == ["conv"]


@pytest.mark.parametrize("name", BOUND)
def test_bound(name):
    wire, reason = BOUND[name]
    found, bound = free_layers(Wired(wire, **layers()))
    assert "conv" not in [layer.conv for layer in found]
    assert reason in bound["conv"]


def test_what_no_norm_follows_is_bound():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1, groups=2))
    found, bound = free_layers(model)
    assert found == ()
    assert bound == {"0": "no BatchNorm2d follows it", "2": "its channels come in groups"}


def test_a_norm_of_another_class_is_bound():
    """One with an activation in it, as timm has."""

    class Act(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).sigmoid()

    assert free(FREE["relu and conv"], bn=Act(4)) == []


def test_a_layer_used_twice_is_bound():
    def twice(m, y, x):
        return m.next(m.bn(m.conv(y[:, :3])))

    assert free(twice) == []


def test_what_cannot_be_traced_is_refused():
    def branch(m, y, x):
        return m.next(y) if y.sum() > 0 else m.next(-y)

    with pytest.raises(prunekit.RecipeError, match=r"torch\.fx does not trace it \(.+\): use"):
        free_layers(Wired(branch))


def build(tmp_path, model):
    path = tmp_path / "r.yaml"
    path.write_text(f"{{name: r, data: digits, model: {model}, phases: [{{name: t, length: 1ep}}],"
                    " optimizer: {name: sgd, lr: 0.1}}")  # fmt: skip
    return prunekit.load_recipe(path).model.build(prunekit.DataSpec(3, 32, 32, 10))


def test_vgg_every_convolution(tmp_path):
    found, bound = free_layers(build(tmp_path, "{name: vgg, depth: 11}"))
    assert [(layer.conv, layer.norm) for layer in found] == [
        (f"conv{i}", f"bn{i}") for i in range(1, 9)
    ]
    assert bound == {}


def test_resnet_the_first_of_each_block(tmp_path):
    found, bound = free_layers(build(tmp_path, "{name: resnet, depth: 20}"))
    assert [layer.conv for layer in found] == [
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)
    ]
    assert set(bound.values()) == {"its channels enter an addition"} | {
        reason for conv, reason in bound.items() if conv == "conv1"
    }
    assert len(bound) == 10
