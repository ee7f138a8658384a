"""One cut of channels: exact counts, floors, ties, and what a mask covers."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from prunekit_rni.sigbn import SigBN
from torch import nn

import prunekit

SCORES = st.integers(-3, 3).map(float)  # few values: many ties
LAYERS = st.lists(st.lists(SCORES, min_size=1, max_size=9), min_size=1, max_size=5)
SPARSITIES = st.one_of(st.floats(0, 0.99), st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5, 0.7, 0.9]))


def oracle(layers, sparsity, floor):
    """Slowly: remove the worst one after the other, then give back what a layer lacks."""
    names = [f"conv{i}" for i in range(len(layers))]
    channels = [(name, i, s) for name, row in zip(names, layers, strict=True)
                for i, s in enumerate(row)]  # fmt: skip
    prune = math.floor(Fraction(repr(sparsity)) * len(channels) + Fraction(1, 2))
    kept = {(name, i) for name, i, _ in channels}
    for name, i, _ in sorted(channels, key=lambda c: (-c[2], c[0], c[1]))[len(channels) - prune :]:
        kept.discard((name, i))
    for name, row in zip(names, layers, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        for i in order[: min(floor, len(row))]:
            kept.add((name, i))
    return {name: [(name, i) in kept for i in range(len(row))]
            for name, row in zip(names, layers, strict=True)}  # fmt: skip


def tensors(layers):
    return {f"conv{i}": torch.tensor(row) for i, row in enumerate(layers)}


def lists(masks):
    return {name: mask.tolist() for name, mask in masks.items()}


@pytest.mark.parametrize("name", ["rni", "l1_bn"])
@given(layers=LAYERS, sparsity=SPARSITIES, floor=st.integers(1, 4))
def test_global_cut_against_the_oracle(name, layers, sparsity, floor):
    strategy = prunekit.strategy(name, sparsity=sparsity, min_channels=floor)
    assert lists(strategy.select(tensors(layers))) == oracle(layers, sparsity, floor)


@given(layers=LAYERS, sparsity=SPARSITIES, floor=st.integers(1, 4))
def test_exact_keeps_the_count_and_the_floors(layers, sparsity, floor):
    total = sum(map(len, layers))
    keep = prunekit.keep_count(total, sparsity)
    if keep < sum(min(floor, len(row)) for row in layers):
        return
    strategy = prunekit.strategy("rni", sparsity=sparsity, min_channels=floor, exact=True)
    kept = strategy.select(tensors(layers))
    assert sum(int(mask.sum()) for mask in kept.values()) == keep
    assert all(mask.sum() >= min(floor, len(mask)) for mask in kept.values())
    for name, mask in kept.items():  # in a layer, the best ones
        assert torch.equal(mask, prunekit.top_mask(tensors(layers)[name], int(mask.sum())))


@given(layers=LAYERS, sparsity=SPARSITIES, floor=st.integers(1, 4))
def test_uniform_cut_takes_the_same_share_of_each_layer(layers, sparsity, floor):
    strategy = prunekit.strategy("ucs", sparsity=sparsity, min_channels=floor)
    for name, mask in strategy.select(tensors(layers)).items():
        alone = oracle([tensors(layers)[name].tolist()], sparsity, floor)
        assert mask.tolist() == alone["conv0"]


# ---- in a model


class Net(nn.Module):
    """Two free layers, of 6 and 4 channels, the first with a bias; one that is bound."""

    def __init__(self):
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.bn_b = nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.c, self.bn_c = nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = self.bn_a(self.a(x)).relu()
        x = self.bn_b(self.b(x)).relu()
        x = self.bn_c(self.c(x)) + 1
        return self.fc(x.mean((2, 3)))


def cut_at_once(model, name="rni", **settings):
    settings = {"sparsity": 0.5, "min_channels": 1, "cut": "0st"} | settings
    strategy = prunekit.strategy(name, **settings)
    pruner = prunekit.Pruner(model, [strategy], total_steps=4, input_shape=(1, 4, 4))
    pruner.start()
    return pruner


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def test_masks_close_gate_rows_and_bias():
    model = net()
    pruner = cut_at_once(model)
    masks = pruner.masks()
    kept = prunekit.top_mask(torch.cat([model.bn_a.gamma, model.bn_b.gamma]).detach(), 5)
    torch.testing.assert_close(masks["bn_a.gate"], kept[:6])
    torch.testing.assert_close(masks["bn_b.gate"], kept[6:])
    torch.testing.assert_close(masks["a.bias"], kept[:6])
    assert torch.equal(masks["a.weight"], kept[:6].view(6, 1, 1, 1).expand(6, 1, 3, 3))
    assert torch.equal(masks["b.weight"], kept[6:].view(4, 1, 1, 1).expand(4, 6, 1, 1))
    assert masks["c.weight"].all()
    assert "bn_a.gamma" not in masks
    assert torch.equal(model.bn_a.gate.detach(), kept[:6].float())
    assert pruner.assigned[0].strategy.count_units(model, masks) == (5, 10)


@pytest.mark.parametrize("name", ["l1_bn", "ucs"])
def test_masks_close_scale_and_shift_of_an_ordinary_norm(name):
    model = net()
    nn.init.uniform_(model.bn_a.weight, -1, 1)
    nn.init.uniform_(model.bn_a.bias, -1, 1)
    masks = cut_at_once(model, name).masks()
    closed = ~masks["bn_a.weight"]
    assert 0 < int(closed.sum()) < 6
    assert torch.equal(masks["bn_a.weight"], masks["bn_a.bias"])
    assert not model.bn_a.weight[closed].any()
    assert not model.bn_a.bias[closed].any()
    out = model.bn_a(model.a(torch.randn(2, 1, 4, 4)))
    assert not out[:, closed].any()


@pytest.mark.parametrize("name", ["l1_bn", "ucs"])
def test_fresh_ordinary_norms_begin_at_a_half(name):
    model = net()
    nn.init.constant_(model.bn_b.weight, 0.7)
    pruner = cut_at_once(model, name, sparsity=0.0)
    assert (model.bn_a.weight == 0.5).all()
    assert (model.bn_b.weight == 0.7).all()  # from another run
    assert pruner.masks()["bn_a.weight"].all()


def test_scopes_restrict_the_cut():
    model = net()
    masks = cut_at_once(model, scope={"include": ["a.*"]}).masks()
    assert int(masks["bn_a.gate"].sum()) == 3
    assert "bn_b.gate" not in masks
    model = net()
    masks = cut_at_once(model, scope={"exclude": ["a.weight"]}).masks()
    assert int(masks["bn_b.gate"].sum()) == 2
    assert "bn_a.gate" not in masks


def test_two_cuts_share_the_norms_and_one_penalty():
    model = net()
    half = {"sparsity": 0.5, "min_channels": 1, "cut": "2st", "penalty": 1.0}
    first, second = (
        prunekit.strategy("rni", **half, scope={"include": [name]}) for name in ("a.weight", "b.*")
    )
    pruner = prunekit.Pruner(model, [first, second], total_steps=4)
    clock = pruner.timeline.clock(0)
    assert first.penalty(model, clock) is not None
    assert second.penalty(model, clock) is None
    assert len(first.optimizer_rules()) == 3
    assert len(second.optimizer_rules()) == 0
    masks = set(pruner.masks())
    assert {"bn_a.gate", "bn_b.gate"} <= masks


def test_a_norm_without_a_scale_cannot_be_ranked():
    model = net()
    model.bn_a = nn.BatchNorm2d(6, affine=False)
    with pytest.raises(prunekit.RecipeError, match=r"bn_a has no scale.*a\.weight out"):
        cut_at_once(model, "ucs")
    masks = cut_at_once(model, "ucs", scope={"exclude": ["a.weight"]}).masks()
    assert int(masks["bn_b.weight"].sum()) == 2
    masks = cut_at_once(model, "rni").masks()
    assert "bn_a.gate" in masks


def test_nothing_free_in_scope_is_refused():
    with pytest.raises(
        prunekit.RecipeError, match=r"no channel in scope.*c: its channels enter an"
    ):
        cut_at_once(net(), scope={"include": ["c.weight"]})


def test_floors_above_an_exact_count_are_refused():
    with pytest.raises(
        prunekit.RecipeError, match="keeps 1 of 10 channels, but min_channels keeps 6 in 2 layers"
    ):
        cut_at_once(net(), sparsity=0.9, min_channels=3, exact=True)


def test_floors_raise_a_count_that_is_not_exact():
    masks = cut_at_once(net(), sparsity=0.9, min_channels=3).masks()
    assert [int(masks[f"{norm}.gate"].sum()) for norm in ("bn_a", "bn_b")] == [3, 3]


def test_a_cut_behind_the_end_is_refused():
    with pytest.raises(prunekit.RecipeError, match="cut 5st is step 5, after the 4 steps"):
        cut_at_once(net(), cut="5st")


@pytest.mark.parametrize(
    ("cut", "first"), [("0st", 0), ("1st", 1), ("50%", 2), ("2ep", 2), ("100%", 4)]
)
def test_channels_are_cut_once(cut, first):
    model = net()
    strategy = prunekit.strategy("rni", sparsity=0.5, cut=cut, min_channels=1)
    pruner = prunekit.Pruner(model, [strategy], total_steps=4, input_shape=(1, 4, 4))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    pruner.attach(optimizer)
    seen = []
    for step in range(5):
        seen.append(pruner.masks())
        if step == 4:
            break
        optimizer.zero_grad()
        x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        model(x).pow(2).mean().backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
    for step, masks in enumerate(seen):
        kept, total = strategy.count_units(model, masks)
        assert (kept, total) == (5 if step >= first else 10, 10)
        if step > first:
            assert all(torch.equal(mask, seen[first][n]) for n, mask in masks.items())


def test_every_norm_is_bounded_also_those_that_are_bound():
    model = net()
    cut_at_once(model)
    assert all(isinstance(getattr(model, f"bn_{n}"), SigBN) for n in "abc")
