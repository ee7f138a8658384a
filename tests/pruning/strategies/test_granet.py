"""GraNet against a loop over its algorithm, in a loop of one's own."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from tests.support.training import with_steps

STEPS = 20
SETTINGS = {
    "sparsity": 0.8,
    "schedule": {"name": "cubic", "stop": "10st"},
    "cadence": {"every": "4st", "stop": "16st"},
}


def places(masks):
    return {n: {*m.flatten().nonzero().flatten().tolist()} for n, m in masks.items()}


def order_of(values, names):
    """(name, index) from the largest |value| down, by name and index where they tie."""
    places = [
        (-abs(value), name, i)
        for name in sorted(names)
        for i, value in enumerate(values[name].flatten().tolist())
    ]
    return [(name, i) for _, name, i in sorted(places)]


def slow_step(weights, masks, grads, keep, share):
    """Prune by |w| over all; in each layer drop the smallest of the rest and grow by |g|."""
    active = places(masks)
    order = [(n, i) for n, i in order_of(weights, weights) if i in active[n]][:keep]
    after = {}
    for name in weights:
        rest = [i for n, i in order if n == name]
        moved = int(share * len(rest))
        retained = {*rest[: len(rest) - moved]}
        wished = [i for _, i in order_of(grads, [name]) if i not in retained]
        after[name] = retained | {*wished[:moved]}
    return after


@with_steps
@given(seed=st.integers(0, 50), start=st.sampled_from([0.0, 0.5, 0.8]))
def test_each_update_is_that_of_the_algorithm(seed, start):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    made = strategy("granet", start_sparsity=start, **SETTINGS)
    pruner = Pruner(model, [made], total_steps=STEPS)
    pruner.attach(optimizer)
    params = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    total = sum(param.numel() for param in params.values())

    def kept():
        return sum(int(mask.sum()) for mask in pruner.masks().values())

    assert kept() == keep_count(total, start)
    for t in range(STEPS):
        x, y = torch.randn(8, 6), torch.randint(4, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = {n: p.detach().clone() for n, p in params.items()}
        masks = {n: m.clone() for n, m in pruner.masks().items()}
        grads = {n: p.grad.clone() for n, p in params.items()}
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        changed = places(pruner.masks())
        if t and (t in (4, 8, 10, 12, 16)):
            left = (1 - min(t, 10) / 10) ** 3
            aim = keep_count(total, start + (0.8 - start) * (1 - left))
            angle = math.cos(math.pi * t / 16)
            share = Fraction(repr(0.5 / 2 * (1 + angle) if t < 16 else 0.0))
            assert changed == slow_step(before, masks, grads, aim, share)
            assert kept() == aim
        else:
            assert changed == places(masks)
    pruner.finish()
    assert kept() == keep_count(total, 0.8)


def test_the_density_falls():
    with pytest.raises(RecipeError, match=r"start_sparsity 0\.5 is more than sparsity 0\.3"):
        strategy("granet", sparsity=0.3)
    with pytest.raises(RecipeError, match="structure"):
        strategy("granet", sparsity=0.8, structure="channel")
