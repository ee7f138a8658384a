"""Clipping by a norm that was measured while looking for what is not finite."""

import pytest
import torch
from torch import nn

from prunekit.foundation.draws import seed_draws
from prunekit.train.precision import Precision

CHANGES = {
    "nothing": lambda model: None,
    "in place": lambda model: model[0].weight.grad.mul_(3),
    "another": lambda model: setattr(model[2].bias, "grad", model[2].bias.grad * 2),
    "gone": lambda model: setattr(model[0].bias, "grad", None),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("most", [1e-3, 1e6])
def test_gradients_are_clipped_as_by_torch(change, most, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    model(torch.randn(4, 5)).square().sum().backward()
    measured, norm = [], nn.utils.get_total_norm
    monkeypatch.setattr(nn.utils, "get_total_norm", lambda g: measured.append(g) or norm(g))
    precision = Precision("fp32", torch.device("cpu"))
    precision.look(model, 0)
    CHANGES[change](model)
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    leaves = [nn.Parameter(p.detach()) for p in model.parameters()]
    for leaf, grad in zip(leaves, expected, strict=True):
        leaf.grad = grad
    nn.utils.clip_grad_norm_(leaves, most)
    precision.clip(model, most)
    for param, leaf in zip(model.parameters(), leaves, strict=True):
        assert (param.grad is None) == (leaf.grad is None)
        assert param.grad is None or torch.equal(param.grad, leaf.grad)
    assert len(measured) == (1 if change == "nothing" else 2)


def test_draws_of_the_cpu_are_those_of_torchs_seed():
    torch.manual_seed(7)
    expected = torch.rand(5)
    seed_draws(7, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
