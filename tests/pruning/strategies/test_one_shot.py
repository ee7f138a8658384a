"""FPGM, Taylor and Wanda against loops over single weights, filters and batches."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.context import Sources, StepContext
from prunekit.pruning.engine import Engine
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.wanda import places_in_rows
from tests.pruning.strategies.test_at_initialization import Samples, convolutional, smooth
from tests.support.scored import FINITE, tensors
from tests.support.training import with_steps

SEEDS = st.integers(0, 99)
FLOATS = st.sampled_from([torch.float32, torch.float64])


def scores_of(model, data, name, shape=(4,), **settings):
    """Parameter -> score, of the passes alone."""
    made = strategy(name, sparsity=0.5, samples=len(data.y), **settings)
    sources = Sources(data=data, input_shape=shape)
    engine = Engine(model, [made], Timeline.single(3), sources=sources)
    ctx = StepContext(engine.around, name, engine.assigned[0].scope, engine.timeline.clock(0), 0)
    return made.passes(ctx)


def masks_of(model, name, data=None, shape=(4,), **settings):
    pruner = Pruner(
        model, [strategy(name, **settings)], total_steps=1, data=data, input_shape=shape
    )
    pruner.start()
    return pruner.masks()


# ---- FPGM


def slow_distances(rows):
    """Of each row: the sum of its distances to all, in lists."""
    lists = rows.double().tolist()
    return [
        sum(sum((a - b) ** 2 for a, b in zip(own, other, strict=True)) ** 0.5 for other in lists)
        for own in lists
    ]


@with_steps
@given(seed=SEEDS, pruned=st.integers(0, 7))
def test_filters_nearest_the_others_go(seed, pruned):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    weight = model[0].weight.detach().clone()
    order = sorted(range(8), key=slow_distances(weight.flatten(1)).__getitem__)
    masks = masks_of(
        model, "fpgm", shape=(3, 4, 4), sparsity=pruned / 8, scope={"include": ["0.weight"]}
    )
    gone = [row for row, mask in enumerate(masks["0.weight"]) if not mask.any()]
    assert sorted(order[:pruned]) == gone
    assert all(bool(mask.any()) == bool(mask.all()) for mask in masks["0.weight"])


def test_a_large_filter_that_is_like_another_goes_before_a_small_one_that_is_not():
    """By hand: distances 5 + 5.1, 5 + .1 and .1 + 5.1 to the others."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 2))
    model[0].weight.data = torch.tensor([[0.1], [5.1], [5.2]])
    masks = masks_of(model, "fpgm", shape=(1,), sparsity=1 / 3, scope={"include": ["0.weight"]})
    assert masks["0.weight"].flatten().tolist() == [True, False, True]


# ---- Taylor


def slow_changes(model, batches, order):
    """The mean over batches of what the gradients, taken by finite differences, say."""
    params = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    totals = {name: torch.zeros_like(param) for name, param in params.items()}
    count = sum(len(y) for _, y in batches)
    for x, y in batches:
        for name, param in params.items():
            flat, total = param.data.view(-1), totals[name].view(-1)
            for i, value in enumerate(flat.tolist()):
                losses = []
                for move in (1e-5, -1e-5):
                    flat[i] = value + move
                    losses.append(F.cross_entropy(model(x), y).item())
                flat[i] = value
                change = abs((losses[0] - losses[1]) / 2e-5 * value)
                total[i] += (change if order == "first" else change**2) * len(y) / count
    return totals


@pytest.mark.parametrize("order", ["squared", "first"])
def test_taylor_scores_are_those_of_finite_differences(order):
    model, data = smooth(3).eval(), Samples(count=10, size=4)  # batches of 4, 4 and 2
    right = slow_changes(model, list(data.calibration(10, False)), order)
    for name, score in scores_of(model, data, "taylor", order=order).items():
        torch.testing.assert_close(score.detach(), right[name].detach(), rtol=1e-5, atol=1e-9)


def test_taylor_sees_batches_that_pull_apart_where_snip_sees_none():
    """One weight, two batches with opposite gradients: g is +-1/4 at w = 0... by symmetry."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False)).double()
    model[0].weight.data = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    data = Samples(count=2, shape=(1,), classes=2, size=1)
    data.x, data.y = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 1])
    # dL/dw_c = p_c - 1[c = y]: -1/2 and +1/2 for w_0, so (g w)^2 = 1/4 in each batch, and g = 0
    assert scores_of(model, data, "taylor", (1,))["0.weight"].tolist() == [[0.25], [0.25]]
    assert not scores_of(model, data, "snip", (1,))["0.weight"].any()


def test_taylor_leaves_the_model_as_it_was():
    model, data = convolutional(), Samples(shape=(2, 6, 6))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores_of(model, data, "taylor", (2, 6, 6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(param.grad is None for param in model.parameters())


# ---- Wanda


@with_steps
@given(seed=SEEDS, pruned=st.integers(0, 3))
def test_wanda_is_the_plain_loop_over_outputs(seed, pruned):
    """Section 3 of the paper: each output of a linear layer on its own."""
    model, data = smooth(seed), Samples(seed)
    inputs = {"0.weight": data.x, "2.weight": torch.tanh(model[0](data.x)).detach()}
    weights = {name: dict(model.named_parameters())[name].detach().clone() for name in inputs}
    masks = masks_of(model, "wanda", data, sparsity=pruned / 4, samples=len(data.y))
    for name, x in inputs.items():
        rows, columns = weights[name].shape
        kept = keep_count(rows * columns, pruned / 4)
        norms = [sum(value * value for value in column) ** 0.5 for column in x.t().tolist()]
        counts = Counter()
        for row in range(rows):
            metric = [abs(w) * n for w, n in zip(weights[name][row].tolist(), norms, strict=True)]
            count = int(masks[name][row].sum())
            best = sorted(range(columns), key=lambda j, of=metric: -of[j])[:count]
            assert sorted(best) == masks[name][row].nonzero().flatten().tolist()
            counts[count] += 1
        assert max(counts) - min(counts) <= 1
        assert sum(count * times for count, times in counts.items()) == kept


def test_wanda_by_tensor_ranks_the_scores_themselves():
    model, data = smooth(1), Samples(1)
    scores = scores_of(model, data, "wanda", compare="tensor")
    weight = model[0].weight.detach()
    torch.testing.assert_close(scores["0.weight"], weight.abs() * data.x.square().sum(0).sqrt())
    torch.testing.assert_close(
        scores_of(model, data, "wanda")["0.weight"], places_in_rows(scores["0.weight"])
    )


@with_steps
@given(score=tensors(FINITE, FLOATS))
def test_places_fall_in_each_row_and_ties_by_index(score):
    rows = score.flatten(1) if score.ndim > 1 else score.unsqueeze(0)
    places = places_in_rows(rows)
    n = rows.shape[1]
    for own, found in zip(rows.tolist(), places.reshape(rows.shape).tolist(), strict=True):
        order = sorted(range(n), key=lambda j, of=own: (-of[j], j))
        right = torch.tensor([(n - order.index(j)) / n for j in range(n)], dtype=score.dtype)
        torch.testing.assert_close(torch.tensor(found, dtype=score.dtype), right)


def best_of_four(score):
    """The two highest of each four neighbours of a row, in lists."""
    wanted = torch.zeros_like(score, dtype=torch.bool)
    for row, own in enumerate(score.tolist()):
        for first in range(0, len(own), 4):
            order = sorted(range(first, first + 4), key=lambda j, of=own: (-of[j], j))
            wanted[row, order[:2]] = True
    return wanted


TWO_OF_FOUR = {"structure": {"name": "n_m", "n": 2, "m": 4}}


@pytest.mark.parametrize("compare", ["row", "tensor"])
def test_two_of_four_go_by_wanda_too(compare):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    data = Samples(3)
    data.x = torch.cat([data.x, data.x.flip(1) * 3], 1)
    settings = {"scope": {"include": ["0.weight"]}, "sparsity": 0.5, "samples": len(data.y)}
    masks = masks_of(model, "wanda", data, (8,), compare=compare, **settings, **TWO_OF_FOUR)
    score = model[0].weight.detach().abs() * data.x.square().sum(0).sqrt()
    assert torch.equal(masks["0.weight"], best_of_four(score))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("wanda", {}),
        ("wanda", TWO_OF_FOUR),
        ("sparse_gpt", TWO_OF_FOUR),
        ("magnitude", TWO_OF_FOUR),
        ("magnitude", {"structure": "constant_fan_in", "distribution": "uniform"}),
    ],
)
def test_a_linear_layer_that_lies_the_other_way_has_the_same_rows(name, settings):
    """GPT-2's `Conv1D` holds [inputs, outputs]: its masks are those of a Linear, turned over."""
    Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    plain, turned = nn.Sequential(nn.Linear(4, 6)), nn.Sequential(Conv1D(6, 4))
    turned[0].weight.data = plain[0].weight.detach().T.clone()
    found = []
    for model in (plain.double(), turned.double()):
        more = {} if name == "magnitude" else {"samples": 12}
        scope = {"include": ["0.weight"]}
        more |= {"sparsity": 0.5, "schedule": "constant", "scope": scope}
        found.append(masks_of(model, name, Samples(2), **settings | more)["0.weight"])
    assert torch.equal(found[1], found[0].T)
    assert not torch.equal(found[0].sum(0).unique(), found[0].sum(1).unique())


def test_wanda_needs_no_gradient_and_refuses_a_weight_that_meets_no_input():
    model, data = smooth(2), Samples(2)
    for param in model.parameters():
        param.requires_grad_(False)
    assert len(masks_of(model, "wanda", data, sparsity=0.5, samples=12)) == 2
    dead = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    dead[0].weight.data.zero_()
    dead[0].bias.data.zero_()
    with pytest.raises(RecipeError, match=r"wanda: 1\.weight meets no input"):
        masks_of(dead, "wanda", data, sparsity=0.5, samples=12)
