"""Weights that are computed: which, from what, by what, and whose zeros are theirs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from prunekit.foundation.computed import computed_weights, keeps_zeros


class Centred(nn.Module):
    def forward(self, weight):
        return weight - weight.mean(1, keepdim=True)


class Scaled(nn.Module):
    """Has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.full((), 2.0))

    def forward(self, weight):
        return self.factor * weight


def registered(step):
    return lambda layer: parametrize.register_parametrization(layer, "weight", step)


NEW = "parametrizations.weight.original"
CASES = {
    "weight_norm": (parametrizations.weight_norm, "weight_norm", f"{NEW}1"),
    "old weight_norm": (weight_norm, "weight_norm", "weight_v"),
    "spectral_norm": (parametrizations.spectral_norm, "spectral_norm", NEW),
    "old spectral_norm": (spectral_norm, "spectral_norm", "weight_orig"),
    "orthogonal": (parametrizations.orthogonal, "orthogonal", None),
    "prune": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        "nn.utils.prune",
        "weight_orig",
    ),
    "own": (registered(Centred()), "the parametrization Centred", None),
    "own with a parameter": (registered(Scaled()), "the parametrization Scaled", NEW),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 8), nn.Conv2d(4, 6, 3, groups=2)], ids=["linear", "conv"]
)
def test_a_computed_weight_is_found_with_what_makes_it(layer, case):
    wrap, reason, source = case
    model = nn.Sequential(nn.Identity(), wrap(copy.deepcopy(layer)))
    (found,) = computed_weights(model)
    assert (found.name, found.reason, found.by_default) == ("1.weight", reason, True)
    assert keeps_zeros(found, model) == (source and f"1.{source}")
    before, noise = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = torch.randn(2, *((4, 5, 5) if isinstance(layer, nn.Conv2d) else (6,)))
    model.eval()(x)
    torch.testing.assert_close(found.compute({}), model[1].weight.detach())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.set_rng_state(noise)


def test_what_is_no_default_weight_is_told_apart():
    norm = parametrize.register_parametrization(nn.LayerNorm(4), "weight", Scaled())
    bias = parametrize.register_parametrization(nn.Linear(4, 4), "bias", Scaled())
    attention = parametrizations.weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight")
    model = nn.ModuleList([norm, bias, attention, nn.Linear(4, 4)])
    assert [(one.name, one.by_default) for one in computed_weights(model)] == [
        ("0.weight", False),
        ("1.bias", False),
        ("2.in_proj_weight", True),
    ]
