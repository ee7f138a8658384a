"""Filters by their norm, against a loop over filters."""

from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit.foundation.timeline import PhaseSpan, Timeline
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from tests.support.training import with_steps

CLASSIFIER = {"exclude": ["7.weight"]}


def make_model(seed: int = 0, first: int = 8, second: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, first, 3, padding=1),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 4, 3),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -1.0, 1.0)
    return model


def prune(model: nn.Module, **settings: Any) -> dict[str, Tensor]:
    chosen = strategy("filter_magnitude", **{"scope": CLASSIFIER} | settings)
    pruner = Pruner(model, [chosen], total_steps=1)
    pruner.start()
    return pruner.masks()


def norm(row: Tensor, power: int) -> float:
    return sum(abs(value) ** power for value in row.double().flatten().tolist())


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("l2", 2)])
@with_steps
@given(seed=st.integers(0, 50), quarters=st.integers(0, 3))
def test_each_layer_loses_the_filters_of_the_smallest_norm(
    kind: str, power: int, seed: int, quarters: int
) -> None:
    model = make_model(seed)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks = prune(model, sparsity=quarters / 4, structure={"name": "channel", "norm": kind})
    along = {"0.weight": ["0.bias", "1.weight", "1.bias"], "3.weight": ["4.weight", "4.bias"]}
    assert masks.keys() == {*along, *(name for names in along.values() for name in names)}
    for name, companions in along.items():
        rows = weights[name]
        order = sorted(range(len(rows)), key=lambda i: (-norm(rows[i], power), i))
        kept = set(order[: len(rows) - len(rows) * quarters // 4])
        for i in range(len(rows)):
            assert bool(masks[name][i].all()) == bool(masks[name][i].any()) == (i in kept)
            assert all(bool(masks[other][i]) == (i in kept) for other in companions)


def test_l1_and_l2_are_two_orders() -> None:
    model = make_model()
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        model[0].weight[:4] = 0.0
        model[0].weight[:4, 0, 0, 0] = 0.1  # l1 0.1 < 0.18, l2 0.1 > 0.042
    copies = [make_model(), make_model()]
    for copy in copies:
        copy.load_state_dict(model.state_dict())
    l1 = prune(copies[0], sparsity=0.5)["0.weight"].flatten(1).all(1)
    l2 = prune(copies[1], sparsity=0.5, structure={"name": "channel", "norm": "l2"})
    assert l1.tolist() == [False] * 4 + [True] * 4
    assert l2["0.weight"].flatten(1).all(1).tolist() == [True] * 4 + [False] * 4


@with_steps
@given(
    sparsity=st.floats(0, 0.99),
    first=st.integers(1, 9),
    second=st.integers(1, 9),
    distribution=st.sampled_from(["uniform", "global", "erk"]),
)
def test_the_count_is_exact_in_filters(
    sparsity: float, first: int, second: int, distribution: str
) -> None:
    masks = prune(make_model(0, first, second), sparsity=sparsity, distribution=distribution)
    kept = {n: int(masks[n].flatten(1).any(1).sum()) for n in ("0.weight", "3.weight")}
    assert sum(kept.values()) == keep_count(first + second, sparsity)
    if distribution == "uniform":
        for name, filters in (("0.weight", first), ("3.weight", second)):
            assert abs(kept[name] - (1 - sparsity) * filters) <= 1


def test_a_pruned_filter_is_exactly_zero_behind_its_norm_through_fine_tuning() -> None:
    model = make_model()
    chosen = strategy("filter_magnitude", sparsity=0.5, scope=CLASSIFIER, during=["fine_tune"])
    timeline = Timeline((PhaseSpan("dense", 4), PhaseSpan("fine_tune", 6)), 1)
    pruner = Pruner(model, [chosen], timeline=timeline)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    pruner.attach(optimizer)
    masks = [pruner.masks()]
    for step in range(10):
        noise = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 2, 4, 4, generator=noise), torch.arange(8) % 3
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        masks.append(pruner.masks())
    assert all(mask.all() for at in masks[:4] for mask in at.values())
    assert all(torch.equal(at[n], masks[4][n]) for at in masks[4:] for n in at)
    model.eval()
    x = torch.randn(5, 2, 4, 4)
    for last, weight, filters in ((1, "0.weight", 8), (4, "3.weight", 12)):
        kept = masks[-1][weight].flatten(1).all(1)
        assert int(kept.sum()) == filters // 2
        out = model[: last + 1](x)
        assert not out[:, ~kept].any()
        assert out[:, kept].any()
