"""What weights multiply, against a loop over single products."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit.pruning.inputs import input_squares
from tests.support.training import with_steps


def found(model, *batches):
    return input_squares(model, dict(model.named_parameters()), batches)


def made(make, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def noise(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def slow_convolution(layer, x):
    """At each entry the squares of what it is laid on, one place after the other."""
    sums = torch.zeros_like(layer.weight)
    padded = F.pad(x, [side for pad in reversed(layer.padding) for side in (pad, pad)])
    outs = layer(x).shape[2:]
    per_group = layer.out_channels // layer.groups
    for o, i, u, v in product(*map(range, layer.weight.shape)):
        channel = o // per_group * layer.weight.shape[1] + i
        for a, b in product(range(outs[0]), range(outs[1])):
            row = a * layer.stride[0] + u * layer.dilation[0]
            column = b * layer.stride[1] + v * layer.dilation[1]
            sums[o, i, u, v] += padded[:, channel, row, column].square().sum()
    return sums.detach()


@with_steps
@given(
    seed=st.integers(0, 99),
    groups=st.sampled_from([1, 2]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_a_convolution(seed, groups, stride, padding, dilation):
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = made(lambda: nn.Conv2d(4, 6, (3, 2), **settings), seed)
    x = noise(2, 4, 6, 5, seed=seed)
    torch.testing.assert_close(found(layer, x)["weight"], slow_convolution(layer, x))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_a_linear_layer_over_all_samples_and_tokens(shape):
    layer, x = made(lambda: nn.Linear(5, 2), 0), noise(4, *shape)
    for batches in ([x], [*x.split(2)]):
        sums = found(layer, *batches)["weight"]
        torch.testing.assert_close(sums, x.reshape(-1, 5).square().sum(0).expand(2, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_of_an_attention_have_their_own_inputs(bias):
    """The rows of in_proj_weight, three views of one parameter where the inputs differ."""

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(4, 2, bias=bias, batch_first=True)

        def forward(self, x):
            return self.attn(x, x + 1, x * 2)[0]

    model, x = made(Cross, 3), noise(2, 3, 4)
    sums = found(model, x)
    rows = [value.reshape(-1, 4).square().sum(0).expand(4, 4) for value in (x, x + 1, x * 2)]
    torch.testing.assert_close(sums["attn.in_proj_weight"], torch.cat(rows))
    assert sums["attn.out_proj.weight"].any()


def test_a_tied_weight_has_the_inputs_of_both_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return self.layer(self.layer(x))

    model, x = made(Twice, 1), noise(5, 3)
    inner = model.layer(x).detach()
    right = (x.square().sum(0) + inner.square().sum(0)).expand(3, 3)
    torch.testing.assert_close(found(model, x)["layer.weight"], right)


def test_a_computed_weight_is_not_multiplied_as_it_is_and_the_model_stays():
    model = made(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.BatchNorm1d(4), nn.Dropout()
        ),
        2,
    )
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sums = found(model, noise(6, 3))
    assert not any(one.any() for one in sums.values())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
