"""The mass of connections against literal loops, and the bound that it gives."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from prunekit_nnrelief.rule import keep_strongest
from prunekit_nnrelief.scores import channel_norms, connection_mass
from torch import nn

SEEDS = st.integers(0, 2**16)
ALPHAS = st.sampled_from([0.5, 0.9, 0.95, 1.0])
CONVS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (2, 3), "padding": (1, 2), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 3, "groups": 2},
    {"kernel_size": 2, "groups": 4, "bias": False},
]


def linear_and_input(seed):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(7, 5).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layer, torch.randn(11, 7, generator=generator, dtype=torch.float64)


def conv_and_input(settings, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(4, 8, **settings).double(), torch.randn(2, 4, 6, 5, dtype=torch.float64)


def windows(conv, x):
    """Maps of the kernels by loops over samples and windows, [out, in / groups, H', W']."""
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    pads = conv.padding
    if pads == "same":
        pads = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    x = nn.functional.pad(x, (pads[1], pads[1], pads[0], pads[0])).abs()
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    rows = range(0, x.shape[2] - reach[0] + 1, stride[0])
    columns = range(0, x.shape[3] - reach[1] + 1, stride[1])
    outputs, inputs = conv.weight.shape[:2]
    maps = torch.zeros(outputs, inputs, len(rows), len(columns), dtype=torch.float64)
    values, weight = x.transpose(0, 1).tolist(), conv.weight.abs().tolist()
    for k, c in itertools.product(range(outputs), range(inputs)):
        channel = k // (outputs // conv.groups) * inputs + c
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
            maps[k, c, i, j] = sum(
                sample[row + u * dilation[0]][column + v * dilation[1]] * weight[k][c][u][v]
                for sample in values[channel]
                for u, v in itertools.product(range(kernel[0]), range(kernel[1]))
            ) / len(x)
    return maps


@given(SEEDS)
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_linear_mass_is_the_mean_of_absolute_contributions(seed):
    layer, x = linear_and_input(seed)
    mass = connection_mass(layer, x.abs().mean(0))
    for i, j in itertools.product(range(5), range(7)):
        terms = [abs(float(layer.weight[i, j] * sample[j])) for sample in x]
        assert float(mass[i, j]) == pytest.approx(sum(terms) / len(terms))
    assert torch.equal(mass[:, 7], layer.bias.abs())


@pytest.mark.parametrize("settings", CONVS, ids=str)
@pytest.mark.parametrize("reduction", ["fro", "sum"])
def test_convolution_mass_is_that_of_the_windows(settings, reduction):
    conv, x = conv_and_input(settings)
    with torch.no_grad():
        maps = windows(conv, x)
        mass = connection_mass(conv, x.abs().mean(0), reduction)
    assert maps.shape[2:] == conv(x).shape[2:]
    expected = maps.sum((2, 3)) if reduction == "sum" else maps.square().sum((2, 3)).sqrt()
    torch.testing.assert_close(mass[:, :-1], expected)
    positions = maps[0, 0].numel()
    share = positions if reduction == "sum" else positions**0.5
    bias = torch.zeros(8, dtype=torch.float64) if conv.bias is None else conv.bias.abs() * share
    torch.testing.assert_close(mass[:, -1], bias)


@given(SEEDS, ALPHAS)
@settings(max_examples=50, deadline=None)
@torch.no_grad()
def test_a_unit_moves_by_no_more_than_what_was_cut(seed, alpha):
    layer, x = linear_and_input(seed)
    mass = connection_mass(layer, x.abs().mean(0))
    kept = keep_strongest(mass, alpha)
    before = layer(x)
    layer.weight *= kept[:, :-1]
    layer.bias *= kept[:, -1]
    error, cut = (before - layer(x)).abs().mean(0), (mass * ~kept).sum(1)
    assert (error <= cut + 1e-12).all()
    assert (cut <= (1 - alpha) * mass.sum(1) + 1e-12).all()


@given(SEEDS, ALPHAS, st.sampled_from(["fro", "sum"]))
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_a_filter_moves_by_no_more_than_what_was_cut(seed, alpha, reduction):
    conv, x = conv_and_input({"kernel_size": 3, "padding": 1}, seed)
    mass = connection_mass(conv, x.abs().mean(0), reduction)
    kept = keep_strongest(mass, alpha)
    before = conv(x)
    conv.weight *= kept[:, :-1, None, None]
    conv.bias *= kept[:, -1]
    error = (before - conv(x)).abs().mean(0)
    size = error.sum((1, 2)) if reduction == "sum" else channel_norms(error)
    cut = (mass * ~kept).sum(1)
    assert (size <= cut + 1e-9).all()
    assert (cut <= (1 - alpha) * mass.sum(1) + 1e-9).all()


@given(SEEDS, st.integers(-3, 3))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_the_unit_of_an_input_does_not_matter(seed, power):
    layer, x = linear_and_input(seed)
    before = keep_strongest(connection_mass(layer, x.abs().mean(0)), 0.75)
    x[:, 2] *= 2.0**power
    layer.weight[:, 2] /= 2.0**power
    assert torch.equal(before, keep_strongest(connection_mass(layer, x.abs().mean(0)), 0.75))


def test_norms_of_channels():
    maps = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert channel_norms(maps).tolist() == [5.0, 0.0]
    assert channel_norms(torch.tensor([2.0, 0.0])).tolist() == [2.0, 0.0]
