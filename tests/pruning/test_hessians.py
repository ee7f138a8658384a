"""The second moments of inputs, against single products and torch's own unfold."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.blocks import block_of, in_turns
from prunekit.pruning.hessians import hessians, use_order
from tests.support.training import with_steps


def found(model, *batches):
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    return weights, hessians(model, weights, weights, batches)


def noise(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def errors(weights, moments, change):
    """The squared change of the outputs that the moments say, for a change of each weight."""
    total = 0.0
    for name, sheets in moments.items():
        for sheet, hessian in sheets.items():
            own = sheet.read(change[name])
            total += (own @ hessian * own).sum()
    return total


def by_running(model, weights, change, x):
    """The same by running the model on its weights and on the changed ones."""
    before = model(x).detach()
    for name, param in model.named_parameters():
        if name in change:
            param.data += change[name]
    return (model(x).detach() - before).square().sum()


@with_steps
@given(
    seed=st.integers(0, 99),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same"]),
    dilation=st.integers(1, 2),
    dims=st.integers(1, 2),
)
def test_of_a_convolution_they_are_the_error_of_its_outputs(
    seed, groups, stride, padding, dilation, dims
):
    """Whatever kernel, padding and groups: a change dW makes the squared error dW H dW."""
    stride = 1 if padding == "same" else stride
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    torch.manual_seed(seed)
    layer = kind(4, 8, 3, stride, padding, dilation, groups).double()
    x = noise(3, 4, *([6] * dims), seed=seed)
    weights, moments = found(layer, x[:2], x[2:])
    change = {"weight": noise(*weights["weight"].shape, seed=1)}
    expected = by_running(layer, weights, change, x)
    torch.testing.assert_close(errors(weights, moments, change), expected)


class Cross(nn.Module):
    """The rows of in_proj_weight are three views where the inputs differ."""

    def __init__(self, **settings):
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True, **settings)

    def forward(self, x):
        return self.attn(x, x + 1, x * 2)[0]


def test_the_parts_of_an_attention_have_their_own():
    x = noise(2, 3, 4)
    _, moments = found(Cross().double(), x)
    parts = sorted(moments["attn.in_proj_weight"].items())
    assert [sheet.size for sheet, _ in parts] == [(1, 4, 4)] * 3
    for (_, hessian), own in zip(parts, (x, x + 1, x * 2), strict=True):
        flat = own.reshape(-1, 4)
        torch.testing.assert_close(hessian[0], flat.T @ flat)


class Transposed(nn.Module):
    """A linear layer whose weight lies the other way, as in GPT-2; used twice."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(4, 4))

    def forward(self, x):
        return torch.addmm(noise(4), x @ self.weight, self.weight)


def test_a_weight_that_is_used_twice_has_the_sum_and_rows_are_outputs():
    model, x = Transposed(), noise(7, 4)
    weights, moments = found(model, x)
    hidden = x @ weights["weight"]
    (sheet,) = moments["weight"]
    torch.testing.assert_close(sheet.read(weights["weight"])[0], weights["weight"].T)
    torch.testing.assert_close(moments["weight"][sheet][0], x.T @ x + hidden.T @ hidden)


class Experts(nn.Module):
    """A batch of matrices, each with inputs of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(3, 4, 5))

    def forward(self, x):
        return torch.bmm(x, self.weight)


def test_each_matrix_of_a_batch_has_its_own():
    x = noise(3, 6, 4)
    _, moments = found(Experts(), x)
    ((sheet, hessian),) = moments["weight"].items()
    assert sheet.size == (3, 5, 4)
    torch.testing.assert_close(hessian, x.mT @ x)


class Halved(nn.Module):
    """One half of a weight is read twice over, beside the whole."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(noise(4, 4))

    def forward(self, x):
        return F.linear(x, self.weight) + F.linear(x, self.weight[:2]).repeat(1, 2)


@pytest.mark.parametrize(
    ("model", "x", "what"),
    [
        (nn.ConvTranspose2d(2, 2, 3), noise(1, 2, 4, 4), "weight is of a transposed convolution"),
        (Halved(), noise(3, 4), "weight is multiplied in parts that overlap"),
        (nn.Linear(4, 2), torch.zeros(3, 4), "weight meets no input that is not zero"),
    ],
)
def test_what_has_none_is_refused_by_name(model, x, what):
    with pytest.raises(RecipeError, match=what):
        found(model.double(), x.double())


def test_names_come_in_the_order_of_their_use_and_in_blocks():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)
            part = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)]
            self.blocks = nn.ModuleList(part)

        def forward(self, x):
            return self.head(self.blocks[0](self.blocks[1](x)))

    model = Turned()
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    order = use_order(model, weights, torch.ones(1, 4))
    of = [f"blocks.{b}.{i}.weight" for b in (1, 0) for i in (0, 2)]
    assert order == [*of, "head.weight"]
    assert in_turns(model, order, "block") == [of[:2], of[2:], ["head.weight"]]
    assert in_turns(model, order, "layer") == [[name] for name in order]
    assert in_turns(model, order, "dense") == [order]
    assert block_of(model, "blocks.1.2.weight") == "blocks.1"
