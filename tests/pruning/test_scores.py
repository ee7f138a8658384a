"""Scores made when they are read rank as those that are held, wherever the search begins."""

import tracemalloc

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import UnrankedError, UsageError
from prunekit.pruning.device_pool import DevicePool
from prunekit.pruning.pools import HostPool, ScorePool
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.scores import (
    Cut,
    Scores,
    all_finite,
    count_true,
    sizes_of,
)
from prunekit.pruning.search import find_threshold, search
from prunekit.pruning.selection import top_masks_global
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.magnitude import Magnitude
from tests.support.scored import same, scores, slow_masks, total


@given(st.data(), scores())
def test_magnitudes_rank_as_if_they_were_held(data, weights):
    floor = {name: data.draw(st.integers(0, 2)) for name in weights}
    least = sum(min(n, weights[name].numel()) for name, n in floor.items())
    keep = data.draw(st.integers(least, total(weights)))
    made = Scores(weights, key=torch.abs)
    held = {name: weight.abs() for name, weight in weights.items()}
    assert same(top_masks_global(made, keep, floor), slow_masks(held, keep, floor))
    assert same(dict(made), held)
    assert sizes_of(made) == {name: weight.numel() for name, weight in weights.items()}


@given(st.data(), scores(), st.floats(allow_nan=True))
def test_where_a_search_begins_changes_nothing(data, values, threshold):
    keep = data.draw(st.integers(0, total(values)))
    begun = Scores(values)
    begun.cut = Cut(keep, threshold)
    assert same(top_masks_global(begun, keep), top_masks_global(values, keep))


def test_the_cut_is_handed_on_and_saves_the_sample(monkeypatch):
    weights = {"a": torch.randn(200_000), "b": torch.randn(300, 300)}
    first = Scores(weights, key=torch.abs)
    top_masks_global(first, 29_000)
    assert first.cut == Cut(29_000, find_threshold(list(weights.values()), 29_000, key=torch.abs))
    second = Scores({n: w * 1.003 for n, w in weights.items()}, key=torch.abs)
    second.cut = first.cut
    monkeypatch.setattr(ScorePool, "sample", lambda self, count: pytest.fail("a sample was drawn"))
    masks = top_masks_global(second, 29_010)
    assert sum(count_true(mask) for mask in masks.values()) == 29_010
    assert second.cut.keep == 29_010


def test_a_count_that_moved_far_is_no_hint(monkeypatch):
    brackets = []
    split = HostPool.split

    def seen(self, low, high, most):
        brackets.append((low, high))
        return split(self, low, high, most)

    monkeypatch.setattr(HostPool, "split", seen)
    scores = Scores({"a": torch.randn(400_000).abs()})
    scores.cut = Cut(50_000, 123.0)
    top_masks_global(scores, 40_000)
    assert all(high < 123 for _, high in brackets)


@pytest.mark.parametrize("pool", [HostPool, DevicePool])
def test_a_hint_among_equal_entries_collects_few_of_them(pool):
    score = torch.full((6_000_000,), 0.25)
    score[:1000] = 0.5
    search(pool([score]), 2_900_000)  # what is loaded at first use is not the search's
    tracemalloc.start()
    assert search(pool([score]), 2_900_000, 0.25) == 0.25
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * score.numel()  # sees the host's buffers; of a device there are none


@given(scores())
def test_finite_is_what_torch_says(values):
    for score in values.values():
        assert all_finite(score) == bool(score.isfinite().all())


def test_a_sum_may_overflow_where_no_entry_does():
    assert all_finite(torch.full((4,), 3e38))
    assert not all_finite(torch.tensor([3e38, float("inf")]))
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))


def model_and_pruner(chosen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 30))
    pruner = Pruner(model, [chosen], total_steps=10)
    return model, pruner


def test_magnitude_prunes_what_held_scores_would():
    settings = {"sparsity": 0.8, "schedule": "constant", "cadence": {"every": "1st"}}
    model, pruner = model_and_pruner(strategy("magnitude", **settings))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    pruner.attach(optimizer)
    for step in range(6):
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
        held = {name: pruner.dense(name).abs() for name in pruner.masks()}
        keep = sum(count_true(mask) for mask in pruner.masks().values())
        assert same(pruner.masks(), slow_masks(held, keep))


def test_a_subclass_with_another_score_is_asked_for_it():
    class Signed(Magnitude):
        def score(self, name, ctx):
            return ctx.weights[name]

    config = Magnitude.Config(name="magnitude", sparsity=0.9, schedule={"name": "constant"})
    model, pruner = model_and_pruner(Signed(config))
    pruner.start()
    kept = [param[param != 0] for param in (model[0].weight, model[2].weight)]
    assert all((values > 0).all() for values in kept)


def test_a_weight_that_is_not_finite_is_named():
    model, pruner = model_and_pruner(strategy("magnitude", sparsity=0.5, schedule="constant"))
    with torch.no_grad():
        model[2].weight[3, 4] = float("inf")
    with pytest.raises(UsageError, match=r"2\.weight is not finite before the first step"):
        pruner.start()


@pytest.mark.parametrize("kind", ["narrow", "equal", "small"])
@pytest.mark.parametrize("wrong", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("keep", [0, 1, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("key", [None, torch.abs])
def test_a_ranking_refuses_what_nobody_has_looked_at(kind, wrong, keep, key):
    size = 90 if kind == "small" else 300_000
    values = torch.full((size,), 0.25) if kind == "equal" else torch.linspace(0.1, 3, size)
    keep = keep if isinstance(keep, int) else int(keep * 2 * size)
    seen = Scores({"a": values, "b": values.clone()}, key)
    seen.unseen = True
    top_masks_global(seen, keep)
    assert not seen.unseen
    for place in (0, size // 2, size - 1):
        spoilt = Scores({"a": values, "b": values.index_fill(0, torch.tensor(place), wrong)}, key)
        spoilt.unseen = True
        with pytest.raises(ValueError, match=r"not finite|NaN"):
            top_masks_global(spoilt, keep)
        assert spoilt.unseen


def test_a_weight_far_above_the_cut_is_looked_at():
    """In a later update, where the search begins at the last threshold."""
    chosen = strategy("magnitude", sparsity=0.5, schedule="constant", cadence={"every": "1st"})
    model, pruner = model_and_pruner(chosen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    model(torch.randn(8, 40)).square().sum().backward()
    model[2].weight.grad[3, 4] = float("inf")
    pruner.before_step()
    optimizer.step()
    with pytest.raises(UnrankedError, match=r"2\.weight is not finite"):
        pruner.after_step()
