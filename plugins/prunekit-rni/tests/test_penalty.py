"""The force that makes neurons recede, against finite differences and the numbers of the paper."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from prunekit_rni.rni import RNI, receding
from prunekit_rni.sigbn import SigBN
from torch import nn

import prunekit

gammas = st.floats(-30, 30)
shifts = st.floats(-5, 5)
CLOCK = {
    "step": 0, "total_steps": 10, "steps_per_epoch": 1, "phase": "train", "phase_step": 0,
    "phase_steps": 5, "active_step": 0, "active_steps": 10,
}  # fmt: skip


def value(gamma, shift):
    """By hand, in doubles."""
    u = 1 / (1 + math.exp(-(gamma + shift)))
    return u * (1 - math.log(u))


def force(gamma, shift=0.0):
    x = torch.tensor([gamma], dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(receding(x, shift), x)[0])


@given(gammas, shifts)
def test_value_against_the_formula(gamma, shift):
    own = float(receding(torch.tensor([gamma], dtype=torch.float64), shift))
    assert own == pytest.approx(value(gamma, shift), rel=1e-12)
    assert 0 <= own <= 1


@given(gammas, shifts)
def test_force_against_finite_differences(gamma, shift):
    step = 1e-5
    numeric = (value(gamma + step, shift) - value(gamma - step, shift)) / (2 * step)
    assert force(gamma, shift) == pytest.approx(numeric, abs=1e-9)


@given(gammas, shifts)
def test_force_is_the_closed_form_and_only_pulls_down(gamma, shift):
    u = 1 / (1 + math.exp(-(gamma + shift)))
    assert force(gamma, shift) == pytest.approx(-u * (1 - u) * math.log(u), rel=1e-9, abs=1e-15)
    assert force(gamma, shift) >= 0


def test_force_profile():
    """Section 3 of the paper as numbers: the peak, and how much weaker it is at either end."""
    grid = [i / 1000 for i in range(-8000, 8001)]
    peak = max(grid, key=force)
    assert force(peak) == pytest.approx(0.2603, abs=5e-5)
    assert 1 / (1 + math.exp(-peak)) == pytest.approx(0.2356, abs=5e-4)
    assert peak == pytest.approx(-1.177, abs=2e-3)
    assert force(2, shift=3) == pytest.approx(4.5e-5, rel=0.02)
    assert force(peak) / force(2, shift=3) == pytest.approx(5.8e3, rel=0.02)
    assert force(-4, shift=3) == pytest.approx(0.258, abs=5e-4)


@given(st.floats(-100, 100, width=32))
def test_finite_in_single_precision(gamma):
    x = torch.tensor([gamma], requires_grad=True)
    total = receding(x, 3.0)
    (grad,) = torch.autograd.grad(total, x)
    assert total.isfinite()
    assert grad.isfinite()
    assert 0 <= grad <= 0.2604


class Net(nn.Module):
    """A norm whose channels are free, and one whose are not."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.last(self.body(x)).mean((2, 3)) * 2


def prepared(**settings):
    torch.manual_seed(0)
    model = Net()
    strategy = prunekit.strategy("rni", sparsity=0.5, cut="50%", **settings)
    strategy.prepare(model)
    return strategy, model


def test_all_norms_are_pulled_and_nothing_else():
    strategy, model = prepared(penalty=0.3, shift=1.0)
    term = strategy.penalty(model, prunekit.Clock(**CLOCK))
    gammas = torch.cat([m.gamma for m in model.modules() if isinstance(m, SigBN)])
    assert len(gammas) == 8
    torch.testing.assert_close(term, 0.3 * receding(gammas, 1.0))
    term.backward()
    pulled = {name for name, p in model.named_parameters() if p.grad is not None}
    assert pulled == {"body.1.gamma", "last.1.gamma"}


def test_l1_penalty():
    strategy = prunekit.strategy("l1_bn", sparsity=0.5, penalty=0.3)
    model = Net()
    nn.init.constant_(model.body[1].weight, -2.0)
    term = strategy.penalty(model, prunekit.Clock(**CLOCK))
    assert float(term.detach()) == pytest.approx(0.3 * (4 * 2 + 4 * 1))


@pytest.mark.parametrize("name", ["rni", "l1_bn"])
@pytest.mark.parametrize(("step", "pulls"), [(0, True), (4, True), (5, False), (9, False)])
def test_the_penalty_ends_with_the_cut(name, step, pulls):
    strategy, model = prunekit.strategy(name, sparsity=0.5, cut="50%"), Net()
    strategy.prepare(model)
    clock = prunekit.Clock(**CLOCK | {"step": step, "active_step": step})
    assert (strategy.penalty(model, clock) is not None) == pulls


@pytest.mark.parametrize("name", ["rni", "l1_bn"])
def test_no_weight_no_penalty(name):
    strategy, model = prunekit.strategy(name, sparsity=0.5, penalty=0.0), Net()
    strategy.prepare(model)
    assert strategy.penalty(model, prunekit.Clock(**CLOCK)) is None


def test_gamma_has_its_own_learning_rate():
    strategy, _ = prepared(lr_scale=7.0)
    rules = {rule.match: (rule.lr_scale, rule.weight_decay) for rule in strategy.optimizer_rules()}
    assert rules == {"body.1.gamma": (7.0, 0.0), "last.1.gamma": (7.0, 0.0)}
    assert RNI.Config(name="rni", sparsity=0.5).lr_scale == 10.0
