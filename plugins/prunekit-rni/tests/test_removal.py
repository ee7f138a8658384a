"""The model without its pruned channels gives the same logits, or stays as it is."""

import logging
import sys

import pytest
import torch
from hypothesis import given, settings, strategies as st
from prunekit_rni.free import free_layers
from torch import nn

import prunekit

removal = pytest.importorskip("prunekit_rni.removal")


class Block(nn.Module):
    """A residual block of `inner` channels inside and 4 outside."""

    def __init__(self, inner):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def chain(widths, side=4):
    """conv - bn - relu by width, a pool, flattened with its positions."""
    layers, inputs = [], 2
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inputs * (side // 2) ** 2, 3)]
    return nn.Sequential(*layers)


def residual(widths):
    blocks = [Block(width) for width in widths]
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def lived_in(model, seed):
    """As after some training: no statistic, scale or shift is what it began as."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)
    return model


def finished(model, name, **settings):
    settings = {"min_channels": 1, "cut": "0st", "remove": True} | settings
    strategy = prunekit.strategy(name, **settings)
    pruner = prunekit.Pruner(model, [strategy], total_steps=2, input_shape=(2, 4, 4))
    if name == "rni":
        lived_in(model, 1)
    pruner.start()
    masked = {n: m.clone() for n, m in pruner.masks().items()}
    x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    x = x.to(next(model.parameters()).dtype)
    with torch.no_grad():
        before = model.eval()(x)
        small = pruner.finish()
        return before, small.eval()(x), small, masked, pruner.model


@settings(max_examples=15)
@given(
    make=st.sampled_from([chain, residual]),
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    name=st.sampled_from(["rni", "l1_bn", "ucs"]),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    seed=st.integers(0, 5),
)
def test_logits_stay(make, widths, name, sparsity, seed):
    torch.manual_seed(seed)
    model = make(widths)
    if name != "rni":
        lived_in(model, seed)
    before, after, small, masks, masked = finished(model, name, sparsity=sparsity)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    for layer in free_layers(masked)[0]:
        kept = int(masks[f"{layer.conv}.weight"].flatten(1).any(1).sum())
        conv, norm = small.get_submodule(layer.conv), small.get_submodule(layer.norm)
        assert len(conv.weight) == conv.out_channels == kept
        assert len(norm.weight) == norm.num_features == kept
        assert type(norm) is nn.BatchNorm2d
        assert norm.weight.all()


@pytest.mark.parametrize("name", ["rni", "l1_bn"])
def test_a_model_of_doubles_becomes_smaller_too(name):
    torch.manual_seed(0)
    before, after, small, *_ = finished(chain([6, 4]).double(), name, sparsity=0.5)
    torch.testing.assert_close(after, before)
    assert small[0].out_channels + small[3].out_channels < 10


def test_a_channel_that_gives_a_constant_is_not_closed():
    """Scale 0 with a shift: its readers would miss the shift."""
    torch.manual_seed(0)
    model = lived_in(chain([4]), 0).eval()
    model[1].weight.data[:2] = 0
    model[1].bias.data[0] = 0
    small = removal.without_closed_channels(model, free_layers(model)[0], (2, 4, 4))
    assert small[0].out_channels == 3
    x = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(small(x), model(x))
    assert model[0].out_channels == 4


def test_without_remove_the_model_keeps_its_shapes():
    torch.manual_seed(0)
    before, after, small, *_ = finished(chain([6, 4]), "rni", sparsity=0.5, remove=False)
    torch.testing.assert_close(after, before)
    assert small[0].out_channels == 6
    assert int((small[1].weight == 0).sum()) + int((small[4].weight == 0).sum()) == 5
    assert type(small[1]) is nn.BatchNorm2d


def test_the_small_model_learns_and_keeps_its_mode():
    torch.manual_seed(0)
    model = chain([6, 4])
    model[0].bias.requires_grad_(False)
    strategy = prunekit.strategy("rni", sparsity=0.5, cut="0st", remove=True, min_channels=1)
    pruner = prunekit.Pruner(model, [strategy], total_steps=2, input_shape=(2, 4, 4))
    pruner.start()
    small = pruner.finish().train()
    assert not small[0].bias.requires_grad
    small(torch.randn(3, 2, 4, 4)).sum().backward()
    assert small[0].weight.grad.shape == small[0].weight.shape


def test_other_logits_are_refused_and_the_masked_model_is_kept(monkeypatch, caplog):
    """As if the library took a wrong channel: the run ends with what it trained."""
    pruner = removal.torch_pruning.pruner.function.ConvPruner
    right = pruner.prune_in_channels

    def wrong(self, layer, idxs):
        return right(self, layer, [(i + 1) % layer.in_channels for i in idxs])

    monkeypatch.setattr(pruner, "prune_in_channels", wrong)
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        before, after, small, *_ = finished(chain([8, 8]), "rni", sparsity=0.3)
    assert before.std(0).all()
    message = "strategy rni: the pruned channels stay, as zeros: without them the logits differ"
    assert message in caplog.text
    torch.testing.assert_close(after, before)
    assert small[0].out_channels == 8


def test_a_failing_library_does_not_lose_the_run(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise KeyError("no such node")

    monkeypatch.setattr(removal.torch_pruning.DependencyGraph, "build_dependency", broken)
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        before, after, *_ = finished(chain([6, 4]), "rni", sparsity=0.5)
    assert "the pruned channels stay, as zeros: KeyError: 'no such node'" in caplog.text
    torch.testing.assert_close(after, before)


def test_removal_without_the_extra_is_refused_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.delitem(sys.modules, "prunekit_rni.removal")
    with pytest.raises(prunekit.RecipeError, match=r"pip install 'prunekit-rni\[removal\]'"):
        finished(chain([6, 4]), "rni", sparsity=0.5)
    finished(chain([6, 4]), "rni", sparsity=0.5, remove=False)


def test_a_loop_that_gives_no_input_shape_is_told_at_the_start():
    strategy = prunekit.strategy("rni", sparsity=0.5, remove=True)
    pruner = prunekit.Pruner(chain([6, 4]), [strategy], total_steps=4)
    with pytest.raises(prunekit.UsageError, match="rni needs input_shape"):
        pruner.start()
