"""NNrelief in a run: what it prunes, when, and what it refuses."""

import pytest
import torch
from nnrelief_nets import Block, Fixed, core_model, run
from prunekit_nnrelief.strategy import NNrelief
from torch import nn

from prunekit import Clock, PluginError, Pruner, RecipeError, strategy
from prunekit.testing import SmallModel, check_strategy

SMALL = {
    "residual": SmallModel(Block, (2, 4, 4), 3),
    "projection": SmallModel(lambda: Block("projection", bias=True), (2, 4, 4), 3),
}


def sequence(*weights):
    """Linear layers without bias, ReLU between them."""
    layers = []
    for rows in weights:
        weight = torch.tensor(rows, dtype=torch.float32)
        layers += [nn.Linear(*weight.shape[::-1], bias=False), nn.ReLU()]
        layers[-2].weight.data = weight
    return nn.Sequential(*layers[:-1])


def test_it_keeps_the_contract():
    check_strategy(NNrelief, {"samples": 8, "alpha_conv": 0.8, "alpha_fc": 0.8}, examples=12)


@pytest.mark.parametrize("propagate", ["unpruned", "pruned"])
def test_it_keeps_the_contract_on_residual_models(propagate):
    settings = {"samples": 8, "alpha_conv": 0.7, "propagate": propagate}
    check_strategy(NNrelief, settings, models=SMALL, examples=6)


def test_a_network_worked_by_hand():
    # mean |x| = (2, 1); unit 0: 6, 1 -> 6/7 < .9 needs both; unit 1: 20, 1 -> the first alone;
    # unit 2 is negative on all samples: dead. mean of the units' outputs: 7, 20, 0
    model = sequence([[3, 1], [10, 1], [-1, -1]], [[2, 0.05, 9], [0.1, 1, 9]])
    masks = run(model, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), alpha_fc=0.9).masks()
    assert masks["0.weight"].tolist() == [[True, True], [True, False], [False, False]]
    # then 14, 1, 0 -> the first; .7, 20, 0 -> the second
    assert masks["2.weight"].tolist() == [[True, False, False], [False, True, False]]


def test_what_leads_nowhere_goes_too():
    model = sequence([[1, 0], [0, 1]], [[1, 1e-3], [1, 1e-3]])
    masks = run(model, torch.ones(2, 2), alpha_fc=0.9).masks()
    assert masks["2.weight"].tolist() == [[True, False], [True, False]]
    assert masks["0.weight"].tolist() == [[True, False], [False, False]]


def test_a_bias_competes():
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[8.0, 1.0], [8.0, 1.0]])
    model.bias.data = torch.tensor([1.0, 90.0])
    masks = run(nn.Sequential(model), torch.ones(3, 2), alpha_fc=0.75).masks()
    assert masks["0.weight"].tolist() == [[True, False], [False, False]]
    assert masks["0.bias"].tolist() == [False, True]


def test_propagate():
    # pruned, unit 0 gives 10 instead of 11 (and unit 1 10): 10 : 10 x 1.05 turns the order round
    weights = [[10, 1], [10, 0]], [[1, 1.05]]
    x = torch.ones(2, 2)
    for propagate, expected in (("unpruned", [True, False]), ("pruned", [False, True])):
        model = sequence(*weights)
        masks = run(model, x, alpha_fc=0.5, propagate=propagate).masks()
        assert masks["0.weight"][:, 0].tolist() == expected  # the other leads nowhere any more
        assert masks["2.weight"].tolist() == [expected]


def test_linear_layers_are_fed_by_the_pruned_convolutions():
    def model():
        conv = nn.Conv2d(2, 2, 1, bias=False)
        conv.weight.data = torch.tensor([[10.0, 1.0], [10.0, 0.0]])[:, :, None, None]
        head = nn.Linear(2, 1, bias=False)
        head.weight.data = torch.tensor([[1.0, 1.05]])
        return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)

    masks = run(model(), torch.ones(2, 2, 1, 1), alpha_conv=0.9, alpha_fc=0.5).masks()
    assert masks["3.weight"].tolist() == [[False, True]]
    masks = run(model(), torch.ones(2, 2, 1, 1), alpha_conv=1.0, alpha_fc=0.5).masks()
    assert masks["3.weight"].tolist() == [[True, False]]


class Sum(nn.Module):
    """conv2(relu(conv1(x))) + skip(x), all 1x1, then a linear layer; two channels."""

    def __init__(self, branch, skip=None):
        super().__init__()
        self.conv1 = conv(torch.eye(2))
        self.conv2 = conv(torch.diag(torch.tensor(branch)))
        self.skip = nn.Identity() if skip is None else conv(torch.diag(torch.tensor(skip)))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        total = self.conv2(torch.relu(self.conv1(x))) + self.skip(x)
        return self.head(torch.relu(total).flatten(1))


def conv(weight):
    layer = nn.Conv2d(2, 2, 1, bias=False)
    layer.weight.data = weight[:, :, None, None]
    return layer


def rows(mask):
    return mask.flatten(1).any(1).tolist()


def test_a_weak_branch_goes():
    # P / Q against (1 - .8) / .8 = 1/4: channel 0 has 1/5, channel 1 has 1/3
    masks = run(Sum([0.2, 1 / 3]), torch.ones(2, 2, 1, 1), alpha_conv=0.8).masks()
    assert rows(masks["conv2.weight"]) == [False, True]
    assert rows(masks["conv1.weight"]) == [False, True]  # it fed the branch alone


def test_a_weak_projection_goes_and_a_weak_identity_cannot():
    x = torch.ones(2, 2, 1, 1)
    masks = run(Sum([1.0, 1.0], skip=[0.2, 1 / 3]), x, alpha_conv=0.8).masks()
    assert rows(masks["skip.weight"]) == [False, True]
    assert rows(masks["conv2.weight"]) == [True, True]
    masks = run(Sum([5.0, 5.0]), x, alpha_conv=0.8).masks()
    assert rows(masks["conv2.weight"]) == [True, True]


def test_of_two_equal_terms_one_stays():
    model = Sum([1.0, 1.0], skip=[1.0, 1.0])
    masks = run(model, torch.ones(2, 2, 1, 1), alpha_conv=0.5).masks()
    kept = rows(masks["conv2.weight"]), rows(masks["skip.weight"])
    assert sorted(kept) == [[False, False], [True, True]]


def test_a_branch_without_any_signal_goes_even_beside_none():
    model = Sum([1.0, 1.0])
    x = torch.ones(2, 2, 1, 1) * torch.tensor([0.0, 1.0])[:, None, None]
    assert rows(run(model, x, alpha_conv=0.9).masks()["conv2.weight"]) == [False, True]


def test_a_dead_filter_takes_its_norm_along_and_stays_dead_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    norm = model[1]
    norm.running_mean += 5.0  # what a mask on the filter alone would leave in the output
    norm.bias.data = torch.tensor([9.0, -30.0, 9.0])
    x = torch.randn(6, 1, 4, 4)
    norm.momentum = 0.0
    masks = run(model, x).masks()
    for name in ("0.bias", "1.weight", "1.bias"):
        assert masks[name].tolist()[1] is False, name
    assert rows(masks["0.weight"]) == [True, False, True]
    for training in (False, True):
        handed = model.train(training)[:3](x)
        assert not handed[:, 1].any()
        assert handed[:, 0].any()


def test_an_output_stays_whatever_it_gives():
    model = sequence([[1.0]], [[-1.0], [1.0]])
    model.append(nn.ReLU())
    masks = run(model, torch.ones(2, 1)).masks()
    assert masks["2.weight"].tolist() == [[True], [True]]


def test_layers_out_of_scope_are_left_alone():
    model = core_model("vgg")
    scope = {"exclude": ["conv1.weight", "fc.weight"]}
    masks = run(model, torch.randn(8, 1, 16, 16), alpha_conv=0.5, scope=scope).masks()
    assert not {"conv1.weight", "bn1.weight", "fc.weight", "fc.bias"} & masks.keys()
    assert {"conv2.weight", "bn2.weight", "bn2.bias"} <= masks.keys()


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "vgg", "resnet"])
def test_masks_only_shrink_and_pruned_stays_zero(name):
    model, x = core_model(name), torch.randn(16, 1, 16, 16)
    settings = {"samples": 16, "alpha_conv": 0.9, "alpha_fc": 0.9}
    pruner, before = run(model, x, steps=1, lr=0.01, **settings), {}
    assert 0.05 < pruner.strategy_metrics()["strategy/nnrelief/sparsity"] < 0.9
    for _ in range(3):
        before = pruner.masks()
        pruner = run(model, x, steps=2, lr=0.01, **settings)
        for name, mask in pruner.masks().items():
            assert not (mask & ~before[name]).any()
            assert not dict(model.named_parameters())[name][~mask].any()
    assert torch.isfinite(model.eval()(x)).all()


def test_order_and_copies_of_samples_do_not_matter():
    x = torch.randn(12, 1, 16, 16).double()
    found = []
    for samples in (x, x.flip(0), torch.cat([x, x])):
        found.append(run(core_model("lenet5").double(), samples, alpha_conv=0.8).masks())
    for masks in found[1:]:
        assert all(torch.equal(mask, masks[name]) for name, mask in found[0].items())


def clock(phase, phase_step, active_step, phase_steps=4):
    return Clock(
        step=phase_step, total_steps=8, steps_per_epoch=2, phase=phase, phase_step=phase_step,
        phase_steps=phase_steps, active_step=active_step, active_steps=8,
    )  # fmt: skip


def test_it_is_due_where_its_phases_end():
    one = strategy("nnrelief", during=["iteration"])
    assert one.due(clock("iteration", 4, 4))
    assert not one.due(clock("iteration", 3, 3))
    assert not one.due(clock("other", 4, 4))
    assert one.due(clock("iteration", 0, 0))  # to look at the data, not to prune
    assert strategy("nnrelief").due(clock("any", 4, 8))
    assert one.target(clock("iteration", 4, 4)) is None


class Rows(nn.Module):
    """A linear layer along the rows of an image."""

    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Linear(4, 3), nn.Linear(24, 2)

    def forward(self, x):
        return self.head(torch.relu(self.rows(x)).flatten(1))


class Repeated(nn.Module):
    """A sum of four channels and the one of the input."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.conv(x) + x)


@pytest.mark.parametrize(
    ("model", "channels", "reason"),
    [
        (Rows(), 2, "rows reads samples of 3 dimensions in place of 1"),
        (Repeated(), 1, "conv is added to 1 channels, and has 4"),
    ],
)
def test_shapes_that_do_not_fit_are_told_before_the_training(model, channels, reason):
    data = Fixed(torch.randn(8, channels, 4, 4))
    pruner = Pruner(model, [strategy("nnrelief", samples=8)], total_steps=2, data=data)
    with pytest.raises(RecipeError, match=reason):
        pruner.start()


def test_a_model_that_has_diverged_is_not_pruned():
    model = sequence([[1, 0], [0, 1]])
    model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(PluginError, match=r"0\.weight: the mass of its connections is not finite"):
        run(model, torch.ones(2, 2))


def test_nothing_is_pruned_at_the_start():
    model = core_model("lenet_300_100")
    data = Fixed(torch.randn(8, 1, 16, 16))
    pruner = Pruner(model, [strategy("nnrelief", samples=8)], total_steps=2, data=data)
    pruner.start()
    assert all(mask.all() for mask in pruner.masks().values())
    assert pruner.strategy_metrics() == {}


def test_metrics():
    model = sequence([[1, 0], [0, 1]], [[1, 1e-3], [1, 1e-3]])
    assert run(model, torch.ones(2, 2), alpha_fc=0.9).strategy_metrics() == {
        "strategy/nnrelief/sparsity": 5 / 8,
        "strategy/nnrelief/compression": 8 / 3,
        "strategy/nnrelief/live_units/0": 1.0,
        "strategy/nnrelief/live_units/2": 2.0,
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mode": "ste"}, "use hard"),
        ({"scope": {"include": ["fc1.bias"]}}, "fc1.bias is no weight of a Linear or Conv2d"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, reason):
    with pytest.raises(RecipeError, match=reason):
        Pruner(core_model("lenet5"), [strategy("nnrelief", **settings)], total_steps=1)


@pytest.mark.parametrize("settings", [{"alpha_fc": 0.0}, {"alpha_conv": 1.1}, {"samples": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError, match="must be"):
        strategy("nnrelief", **settings)
