"""Constant fan-in: as many entries in every row, the best of it, next to what is asked."""

from math import prod

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.distributions import ERK, Demand, Global, Uniform
from prunekit.pruning.selection import keep_count
from prunekit.pruning.structures import ConstantFanIn

LAYERS = {
    "linear": nn.Linear(7, 5),
    "conv": nn.Conv2d(3, 4, 3),
    "grouped": nn.Conv2d(4, 6, 2, groups=2),
    "transposed": nn.ConvTranspose2d(4, 3, 2),
    "grouped_transposed": nn.ConvTranspose2d(4, 6, 2, groups=2),
}
MOST_ROWS = 6


@pytest.fixture(scope="module")
def model():
    return nn.ModuleDict(LAYERS)


def row_sets(name, tensor):
    """The entries of each output, by a loop over the output channels of the layer itself."""
    layer = LAYERS[name]
    if not name.endswith("transposed"):
        return [tensor[i].flatten() for i in range(len(tensor))]
    inputs = layer.in_channels // layer.groups  # of one output
    return [
        tensor[g * inputs : (g + 1) * inputs, o].flatten()
        for g in range(layer.groups)
        for o in range(layer.out_channels // layer.groups)
    ]


@given(
    seed=st.integers(0, 2**16),
    sparsity=st.integers(0, 99).map(lambda n: n / 100),
    distribution=st.sampled_from([Uniform(), ERK(), Global()]),
)
def test_each_row_keeps_its_best_and_all_together_what_is_asked(
    model, seed, sparsity, distribution
):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        f"{n}.weight": torch.rand(m.weight.shape, generator=generator) for n, m in model.items()
    }
    masks = ConstantFanIn().select(model, Demand(scores, sparsity), distribution)
    fans = {}
    for name in LAYERS:
        rows = row_sets(name, masks[f"{name}.weight"])
        assert len({int(row.sum()) for row in rows}) == 1
        fans[name] = int(rows[0].sum())
        for row, score in zip(rows, row_sets(name, scores[f"{name}.weight"]), strict=True):
            best = sorted(range(len(score)), key=lambda i, s=score: (-float(s[i]), i))
            assert set(row.nonzero().flatten().tolist()) == set(best[: fans[name]])
    total = sum(prod(s.shape) for s in scores.values())
    kept, asked = sum(int(m.sum()) for m in masks.values()), keep_count(total, sparsity)
    # no less than asked; without the floor of one input, less than a layer's rows more
    assert asked <= kept
    assert kept < asked + MOST_ROWS or min(fans.values()) == 1


def test_by_hand():
    layer = nn.Linear(4, 2)
    scores = {"weight": torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 4.0, 3.0, 4.0]])}
    masks = ConstantFanIn().select(layer, Demand(scores, 0.5), Uniform())
    assert masks["weight"].tolist() == [[True, True, False, False], [False, True, False, True]]
    thinnest = ConstantFanIn().select(layer, Demand(scores, 0.99), Uniform())
    assert thinnest["weight"].sum(1).tolist() == [1, 1]
    floor = ConstantFanIn().select(layer, Demand(scores, 0.99, min_keep=5), Uniform())
    assert floor["weight"].sum(1).tolist() == [3, 3]


def test_what_has_no_inputs_is_refused_by_name():
    with pytest.raises(RecipeError, match=r"constant_fan_in: bias has no inputs.*exclude: \[bias"):
        ConstantFanIn().units(nn.Linear(2, 2), ["weight", "bias"])
    demand = Demand({"weight": torch.full((2, 2), float("nan"))}, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        ConstantFanIn().select(nn.Linear(2, 2), demand, Uniform())
