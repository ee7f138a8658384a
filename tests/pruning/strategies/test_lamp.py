"""LAMP against a double loop, and what makes it layer-adaptive."""

from pathlib import Path
from types import SimpleNamespace

import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.runs.directory import open_run
from tests.support.scored import FINITE, same, scores, slow_masks, sparsities, tensors, total
from tests.support.training import run, with_steps

WEIGHTS = st.sampled_from([torch.float32, torch.float64])
MODELS = scores(FINITE, WEIGHTS)


def lamp(weights, name):
    chosen = strategy("lamp", sparsity=0.5)
    return chosen.score(name, SimpleNamespace(weights=weights))


def slow_lamp(weight):
    """Of each entry: its square over the sum of those of all that stand at or after it."""
    flat = weight.double().flatten().tolist()
    result = []
    for i, own in enumerate(flat):
        behind = 0.0
        larger = [v for j, v in enumerate(flat) if (abs(v), -j) > (abs(own), -i)]
        for value in sorted(larger, key=abs, reverse=True):
            behind += value * value
        last = not larger
        result.append(1.0 if last else own * own / (behind + own * own) if own else 0.0)
    return torch.tensor(result, dtype=torch.float64).reshape(weight.shape)


def pruned(weights, sparsity, **settings):
    model = nn.ParameterDict({n.replace(".", "_"): nn.Parameter(w) for n, w in weights.items()})
    chosen = strategy(
        "lamp", sparsity=sparsity, schedule="constant", scope={"include": ["*"]}, **settings
    )
    pruner = Pruner(model, [chosen], total_steps=1)
    pruner.start()
    return pruner.masks()


@with_steps
@given(weights=MODELS)
def test_scores_are_those_of_a_double_loop(weights):
    for name, weight in weights.items():
        assert torch.equal(lamp(weights, name), slow_lamp(weight))


@with_steps
@given(weights=MODELS, data=st.data())
def test_masks_are_those_of_slow_scores_and_a_slow_sort(weights, data):
    weights = {n.replace(".", "_"): w for n, w in weights.items()}
    sparsity = data.draw(sparsities(total(weights)).filter(lambda s: s < 1))
    slow = {n: slow_lamp(w) for n, w in weights.items()}
    assert same(pruned(weights, sparsity), slow_masks(slow, keep_count(total(weights), sparsity)))


@with_steps
@given(weight=tensors(FINITE, WEIGHTS), power=st.integers(-40, 40))
def test_the_scale_of_a_layer_does_not_matter_and_its_order_is_that_of_magnitude(weight, power):
    score = lamp({"w": weight}, "w")
    assert torch.equal(score, lamp({"w": weight.double() * 2.0**power}, "w"))
    order = score.flatten().argsort()
    assert (weight.flatten().abs()[order].diff() >= 0).all()
    assert int((score == 1).sum()) == 1


@with_steps
@given(weights=MODELS, spare=st.integers(0, 5))
def test_no_tensor_is_emptied_while_there_is_one_entry_for_each(weights, spare):
    weights = {n.replace(".", "_"): w for n, w in weights.items()}
    keep = min(total(weights), len(weights) + spare)
    masks = pruned(weights, 1 - keep / total(weights))
    assert sum(int(mask.sum()) for mask in masks.values()) == keep
    assert all(mask.any() for mask in masks.values())


def test_a_hand_worked_example():
    score = lamp({"w": torch.tensor([[3.0, -1.0], [2.0, 1.0]])}, "w")
    assert torch.equal(score, torch.tensor([[1.0, 1 / 14], [4 / 13, 1 / 15]], dtype=torch.float64))


def test_it_prunes_in_training_and_masks_are_nested_in_hard(tmp_path: Path):
    done = run(
        tmp_path, strategies=[{"name": "lamp", "sparsity": 0.8, "cadence": {"every": "3st"}}]
    )
    opened = open_run(done)
    kept = opened.masks()
    assert sum(int(m.sum()) for m in kept.values()) == keep_count(total(kept), 0.8)
    densities = [float(m.double().mean()) for m in kept.values()]
    assert densities[0] < densities[1]  # the classifier is the smaller layer and stays denser
