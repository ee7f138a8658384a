"""SigBN is a BatchNorm with scale sigmoid(gamma), and folds into one."""

import pytest
import torch
from hypothesis import given, strategies as st
from prunekit_rni.sigbn import SigBN, fold, put_sigbn
from torch import nn

import prunekit


def images(seed, channels, batch=4, side=3):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, channels, side, side, generator=generator) + 1


def by_hand(x, gamma, gate, mean, var, eps):
    shaped = [value.view(1, -1, 1, 1) for value in (gamma, gate, mean, var)]
    gamma, gate, mean, var = shaped
    return gate * (1 / (1 + (-gamma).exp())) * (x - mean) / (var + eps).sqrt()


@given(st.integers(1, 6), st.integers(0, 9))
def test_training_normalises_over_the_batch(channels, seed):
    torch.manual_seed(seed)
    norm, x = SigBN(channels), images(seed, channels)
    expected = by_hand(
        x, norm.gamma, norm.gate, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), norm.eps
    )
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_statistics_are_those_of_batch_norm(momentum):
    torch.manual_seed(0)
    norm = SigBN(3, momentum=momentum)
    plain = nn.BatchNorm2d(3, momentum=momentum)
    for seed in range(3):
        norm(images(seed, 3))
        plain(images(seed, 3))
    for name, value in plain.named_buffers():
        torch.testing.assert_close(dict(norm.named_buffers())[name], value)


@given(st.integers(1, 6), st.integers(0, 9), st.data())
def test_folding_keeps_the_outputs(channels, seed, data):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, channels, 1), SigBN(channels))
    model(images(seed, 2))
    gate = data.draw(st.lists(st.booleans(), min_size=channels, max_size=channels))
    model[1].gate.data.copy_(torch.tensor(gate))
    model.eval()
    before = model(images(seed + 1, 2))
    fold(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert not model[1].training
    torch.testing.assert_close(model(images(seed + 1, 2)), before)


@given(st.integers(0, 9), st.booleans())
def test_a_closed_channel_gives_exactly_zero(seed, training):
    """Also where the running mean is stale, as after the rows of the convolution were zeroed."""
    torch.manual_seed(seed)
    norm = SigBN(4).train(training)
    norm.running_mean.fill_(5.0)
    norm.gate.data[1] = 0
    out = norm(images(seed, 4))
    assert not out[:, 1].any()
    assert out[:, [0, 2, 3]].any()


def test_the_scale_learns_and_the_gate_does_not():
    norm = SigBN(2)
    norm(images(0, 2)).pow(2).sum().backward()
    assert norm.gamma.grad.all()
    assert norm.gate.grad is None
    assert not norm.gate.requires_grad


def test_a_fresh_norm_gets_a_normal_gamma():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4000))
    put_sigbn(model)
    assert abs(float(model[0].gamma.detach().mean())) < 0.1
    assert abs(float(model[0].gamma.detach().std()) - 1) < 0.1


def test_a_folded_norm_comes_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5))
    assert put_sigbn(model) == ("1",)
    model(images(0, 2))
    gamma, mean = model[1].gamma.detach().clone(), model[1].running_mean.clone()
    fold(model)
    put_sigbn(model)
    torch.testing.assert_close(model[1].gamma.detach(), gamma)
    torch.testing.assert_close(model[1].running_mean, mean)


def test_scales_that_begin_at_zero_are_fresh():
    """At the end of a residual branch; as gammas of scale 0 they would hardly ever learn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4000))
    nn.init.zeros_(model[0].weight)
    put_sigbn(model)
    assert abs(float(model[0].gamma.detach().mean())) < 0.1


@pytest.mark.parametrize("affine", [True, False])
def test_it_is_of_the_dtype_and_in_the_mode_of_what_it_stands_for(affine):
    model = nn.Sequential(nn.BatchNorm2d(2, affine=affine)).double().eval()
    put_sigbn(model)
    assert not model[0].training
    assert {v.dtype for v in model.state_dict().values()} == {torch.float64, torch.int64}
    assert model(images(0, 2).double()).dtype == torch.float64


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.1), (1.5, 0.0), (-0.5, 0.0)])
def test_a_trained_ordinary_norm_is_refused(scale, shift):
    model = nn.Sequential(nn.BatchNorm2d(2))
    nn.init.constant_(model[0].weight, scale)
    nn.init.constant_(model[0].bias, shift)
    with pytest.raises(prunekit.RecipeError, match=r"0 has learnt a shift or a scale.*model\.init"):
        put_sigbn(model)
    assert type(model[0]) is nn.BatchNorm2d
