"""SparseGPT against least squares, brute force, the paper's own loop, and layers that are run."""

import copy
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.brain_surgeon import prune_in_blocks
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from tests.support.training import with_steps

SEEDS = st.integers(0, 99)


class Inputs:
    """Calibration samples that are given, in batches of 16."""

    def __init__(self, x):
        self.x = x

    def calibration(self, samples, balanced):
        for part in self.x[:samples].split(16):
            yield part, torch.zeros(len(part), dtype=torch.int64)


def dependent(count, columns, seed):
    """Inputs that depend on each other, some large and some small."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(columns, columns, generator=draw, dtype=torch.float64) / columns**0.5
    spread = torch.logspace(-0.5, 0.5, columns, dtype=torch.float64)
    own = torch.randn(count, columns, generator=draw, dtype=torch.float64)
    return own @ (torch.eye(columns, dtype=torch.float64) + mixed) * spread


def pruned(model, x, **settings):
    """The Pruner after the masks of t = 0, and the weights before."""
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    made = strategy("sparse_gpt", **{"sparsity": 0.5, "samples": len(x), **settings})
    pruner = Pruner(model, [made], total_steps=0, data=Inputs(x))
    pruner.start()
    return pruner, before


@with_steps
@given(seed=SEEDS, gone=st.integers(1, 11))
def test_one_row_in_one_block_ends_at_the_least_squares_optimum_of_its_mask(seed, gone):
    torch.manual_seed(seed)
    layer, x = nn.Linear(12, 1).double(), dependent(60, 12, seed)
    pruner, before = pruned(layer, x, sparsity=gone / 12, damp=0.0)
    (mask,) = pruner.masks()["weight"]
    assert int(mask.sum()) == 12 - gone
    best = torch.linalg.lstsq(x[:, mask], x @ before["weight"][0]).solution
    torch.testing.assert_close(layer.weight[0, mask].detach(), best, rtol=1e-6, atol=1e-6)
    assert not layer.weight[0, ~mask].any()
    assert torch.equal(layer.bias, before["bias"])


def test_the_one_weight_that_goes_first_is_the_one_that_costs_least():
    """By brute force: least squares without each column in turn."""
    layer, x = nn.Linear(6, 1, bias=False).double(), dependent(40, 6, 3)
    pruner, before = pruned(layer, x, sparsity=1 / 6, damp=0.0)
    y = x @ before["weight"][0]

    def cost(kept):
        fit = torch.linalg.lstsq(x[:, kept], y).solution
        return float((x[:, kept] @ fit - y).square().sum())

    best = min(map(list, combinations(range(6), 5)), key=cost)
    assert pruner.masks()["weight"][0].nonzero().flatten().tolist() == best


LAYERS = {
    "linear": (lambda: nn.Linear(40, 24), (40,)),
    "convolution": (lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2), (6, 7, 7)),
    "grouped": (lambda: nn.Conv2d(8, 8, 3, groups=4), (8, 5, 5)),
    "depthwise": (lambda: nn.Conv1d(8, 8, 4, groups=8), (8, 12)),
}


@pytest.mark.parametrize("structure", ["unstructured", "n_m"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_outputs_are_nearer_than_those_of_the_mask_alone(kind, structure):
    make, shape = LAYERS[kind]
    torch.manual_seed(1)
    layer = make().double()
    x = dependent(64, torch.Size(shape).numel(), 2).reshape(64, *shape)
    settings = {"structure": {"name": "n_m", "n": 1, "m": 2}} if structure == "n_m" else {}
    if structure == "n_m" and kind == "depthwise":
        with pytest.raises(RecipeError, match="1 inputs, not a multiple of 2"):
            pruned(layer, x, block=16, **settings)
        return
    y = layer(x).detach()
    pruner, before = pruned(layer, x, block=16, **settings)
    mask, found = pruner.masks()["weight"], layer.weight.detach().clone()
    assert int(mask.sum()) == keep_count(mask.numel(), 0.5)
    assert torch.equal(found != 0, mask)

    def of_row(weight):  # each output on its own
        layer.weight.data = weight
        return (layer(x).detach() - y).square().movedim(1, 0).flatten(1).sum(1)

    own, plain = of_row(found), of_row(before["weight"] * mask)
    assert (own <= plain * (1 + 1e-9)).all()
    assert own.sum() < plain.sum()


def as_published(weight, hessian, sparsity, block, damp):
    """Algorithm 1 column by column, as the paper has it, for one matrix."""
    weight, columns = weight.clone(), weight.shape[1]
    damped = hessian + damp * hessian.diag().mean() * torch.eye(columns, dtype=hessian.dtype)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        saliency = (weight[:, first:last] / factor.diag()[first:last]).square()
        gone = torch.zeros(saliency.numel(), dtype=torch.bool)
        gone[saliency.flatten().argsort()[: round(saliency.numel() * sparsity)]] = True
        for j, own in enumerate(gone.view_as(saliency).T, start=first):
            error = torch.where(own, weight[:, j], 0) / factor[j, j]
            weight[:, j:] -= error[:, None] * factor[j, j:]
            weight[own, j] = 0
    return weight


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_outputs_are_no_further_off_than_by_the_papers_own_loop(sparsity):
    """What a block removes exactly can only help it; over blocks and rows it does here."""
    torch.manual_seed(0)
    weight, x = torch.randn(32, 64, dtype=torch.float64), dependent(300, 64, 5)
    hessian = x.T @ x

    def choose(first, saliency):
        keep = saliency.numel() - round(saliency.numel() * sparsity)
        best = saliency.flatten().argsort(descending=True)[:keep]
        mask = torch.zeros(saliency.numel(), dtype=torch.bool)
        return mask.index_fill_(0, best, True).view_as(saliency)

    _, own = prune_in_blocks(weight[None], hessian[None], choose, block=16, damp=0.01)
    theirs = as_published(weight, hessian, sparsity, 16, 0.01)

    def error(found):
        return float((x @ (found - weight).T).square().sum())

    assert error(own[0]) < error(theirs)


class Two(nn.Module):
    """Two blocks behind each other."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))
            for _ in range(2)
        )

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))


def test_a_later_block_sees_what_the_pruned_one_before_it_gives():
    """Its weights are those of the second block alone, behind the finished first."""
    torch.manual_seed(0)
    model, x = Two().double(), dependent(64, 8, 1)
    alone, dense = copy.deepcopy(model), copy.deepcopy(model)
    pruned(model, x)
    hidden = model.blocks[0](x).detach()
    inside = nn.ModuleList([alone.blocks[1]])

    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = inside

        def forward(self, x):
            return self.blocks[0](x)

    pruned(Second(), hidden, order="dense")
    for own, other in zip(model.blocks[1].parameters(), inside.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    pruned(dense, x, order="dense")
    assert not torch.equal(dense.blocks[1][0].weight, model.blocks[1][0].weight)


def test_shared_weights_and_attention_are_corrected_and_gaps_counted_exactly():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).double().eval()
    pruner, before = pruned(model, dependent(32, 40, 1).reshape(32, 5, 8), sparsity=0.6)
    masks = pruner.masks()
    assert "self_attn.in_proj_weight" in masks
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(total, 0.6)
    for name, mask in masks.items():
        now = dict(model.named_parameters())[name].detach()
        assert torch.equal(now != 0, mask)
        assert not torch.equal(now[mask], before[name][mask])


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"structure": "channel"}, "structure channel does not fit"),
        ({"distribution": "global"}, "distribution global has nothing to rank"),
        ({"mode": "ste"}, "sparse_gpt does not work in mode 'ste'"),
        ({"damp": 0.0}, "the inputs of weight depend on each other too much for damp 0"),
    ],
)
def test_what_does_not_fit_is_refused(settings, what):
    flat = torch.ones(8, 4)
    with pytest.raises(RecipeError, match=what):
        pruned(nn.Linear(4, 2), flat, **settings)


def test_gradual_pruning_goes_on_from_what_it_left():
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 8), dependent(64, 16, 1).float()
    made = strategy(
        "sparse_gpt",
        sparsity=0.75,
        samples=64,
        regrow=False,
        schedule={"name": "multi_step", "table": [["0%", 0.5], ["50%", 1.0]]},
        cadence={"every": "1st"},
    )
    pruner = Pruner(layer, [made], total_steps=4, data=Inputs(x))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    pruner.attach(optimizer)
    seen = [pruner.masks()["weight"]]
    for _ in range(4):
        optimizer.zero_grad()
        layer(x[:8]).square().mean().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
        seen.append(pruner.masks()["weight"])
    assert [int(mask.sum()) for mask in seen] == [80, 80, 32, 32, 32]
    assert all(not (later & ~earlier).any() for earlier, later in pairwise(seen))
