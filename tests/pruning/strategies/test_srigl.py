"""SRigL against a loop over single weights; exact counts in training, and what stays gone."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.pruning.strategies.srigl import Neurons, moved as moved_layers


def moved(weight, mask, grad, share, gamma, count):
    """Of one layer, beside another that must not matter."""
    other = Neurons(torch.ones(1, 2), torch.ones(1, 2).bool(), torch.ones(1, 2), 2)
    layers = {"other": other, "w": Neurons(weight, mask, grad, count)}
    return moved_layers(layers, share, gamma)["w"]


def slow_moved(weight, mask, grad, share, gamma, count):
    """Section 3.1 step by step, on lists -> the places of the next mask."""
    neurons, inputs = len(weight), len(weight[0])
    places = [(i, j) for i in range(neurons) for j in range(inputs)]
    active = [(i, j) for i, j in places if mask[i][j]]
    before = [i for i in range(neurons) if any(mask[i])]
    drop = int(share * len(active))
    # 1: what stays by |w|, and what would come by |g|, over the layer
    by_size = sorted(active, key=lambda p: (-abs(weight[p[0]][p[1]]), p))
    retained = set(by_size[: len(active) - drop])
    others = [p for p in places if p not in retained and p[0] in before]
    wanted = set(sorted(others, key=lambda p: (-abs(grad[p[0]][p[1]]), p))[:drop])
    # 2: neurons with too few
    fan_in = len(active) // len(before)
    salient = {i: sum(p[0] == i for p in retained | wanted) for i in before}
    live = [i for i in before if salient[i] >= gamma * fan_in]
    # 3: the new fan-in
    k = min(inputs, count // len(live))
    # 4: grow in each neuron
    after = {p for p in retained if p[0] in live}
    for i in live:
        free = [(i, j) for j in range(inputs) if (i, j) not in after]
        free.sort(key=lambda p: (-abs(grad[p[0]][p[1]]), p))
        after |= set(free[: k - sum(p[0] == i for p in after)])
    return after, live, k


@given(st.data())
def test_a_layer_moves_as_in_a_loop_over_its_weights(data):
    neurons, inputs = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    fan_in = data.draw(st.integers(1, inputs))
    gone = data.draw(st.sets(st.integers(0, neurons - 1), max_size=neurons - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    noise = torch.rand(neurons, inputs, generator=generator)
    mask = noise.argsort(1).argsort(1) < fan_in
    mask[sorted(gone)] = False
    levels = data.draw(st.sampled_from([3, 1000]))  # with ties, and hardly any
    weight = torch.randint(-levels, levels + 1, (neurons, inputs), generator=generator).float()
    grad = torch.randint(-levels, levels + 1, (neurons, inputs), generator=generator).float()
    share = Fraction(data.draw(st.integers(0, 10)), 10)
    gamma = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    count = int(mask.sum()) + data.draw(st.integers(0, 3))
    found = moved(weight, mask, grad, share, gamma, count)
    lists = [t.tolist() for t in (weight, mask, grad)]
    after, live, k = slow_moved(*lists, share, gamma, count)
    assert {tuple(p) for p in found.nonzero().tolist()} == after
    assert set(found.sum(1).tolist()) <= {0, k}
    assert not found[sorted(gone)].any()
    assert len(live) * k == int(found.sum()) <= count


def test_in_training_each_layer_has_one_fan_in_and_a_neuron_that_goes_stays_gone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
    chosen = strategy(
        "srigl", sparsity=0.6, gamma_sal=0.8, cadence={"every": "1st", "stop": "100%"}
    )
    pruner = Pruner(model, [chosen], total_steps=12, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    start = {n: m.sum(1) for n, m in pruner.masks().items()}
    assert all(len(set(row.tolist())) == 1 for row in start.values())
    asked = sum(m.numel() for m in pruner.masks().values()) * 0.4
    kept = sum(int(row.sum()) for row in start.values())
    assert asked <= kept < asked + 16
    gone, took = {n: torch.zeros(len(r), dtype=torch.bool) for n, r in start.items()}, 0
    for step in range(12):
        optimizer.zero_grad()
        x = torch.randn(6, 12, generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(x), x[:, :8].argmax(1)).backward()
        if pruner.before_step():
            optimizer.step()
            took += 1
        pruner.after_step()
        for name, mask in pruner.masks().items():
            rows, most = mask.sum(1), int(start[name].sum())
            live = int((rows > 0).sum())
            assert set(rows.tolist()) - {0} == {min(mask.shape[1], most // live)}
            assert not (gone[name] & (rows > 0)).any()
            gone[name] |= rows == 0
    told = pruner.strategy_metrics()
    ablated = sum(int(g.sum()) for g in gone.values())
    assert ablated > 0
    assert next(v for k, v in told.items() if k.endswith("ablated")) == ablated
    assert took < 12  # an update takes the place of a step
    pruner.finish()


def test_a_tied_weight_is_one_layer_with_the_gradient_of_both_uses():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    chosen = strategy("srigl", sparsity=0.5, gamma_sal=0.0, cadence={"every": "1st"})
    pruner = Pruner(model, [chosen], total_steps=8, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    ((name, before),) = pruner.masks().items()
    shares, fraction = [], chosen.drop_fraction
    chosen.drop_fraction = lambda clock: shares.append(fraction(clock)) or shares[-1]
    while not shares:
        weight = model[0].weight.detach().clone()
        optimizer.zero_grad()
        model(torch.randn(6, 8)).square().mean().backward()
        grad = model[0].weight.grad.clone()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    lists = [t.tolist() for t in (weight, before, grad)]
    after, *_ = slow_moved(*lists, Fraction(repr(shares[0])), 0.0, int(before.sum()))
    assert {tuple(p) for p in pruner.masks()[name].nonzero().tolist()} == after
    assert not torch.equal(pruner.masks()[name], before)
    assert model[2].weight is model[0].weight


def test_without_ablation_the_count_is_that_of_the_start():
    gamma, count = 0.0, 6
    mask = torch.tensor([[True, True, False, False]] * 3)
    weight, grad = torch.ones(3, 4), torch.arange(12.0).view(3, 4)
    for share in (Fraction(0), Fraction(1, 3), Fraction(1)):
        assert moved(weight, mask, grad, share, gamma, count).sum(1).tolist() == [2, 2, 2]


def test_by_hand_which_neurons_go():
    mask = torch.tensor([[True, False]] * 3)
    weight, grad = (
        torch.tensor([[3.0, 0], [2, 0], [1, 0]]),
        torch.tensor([[0.0, 9], [0, 8], [0, 7]]),
    )
    # all move, and the three largest |g| are one of each neuron
    assert moved(weight, mask, grad, Fraction(1), 1.0, 3).sum(1).tolist() == [1, 1, 1]
    # the first weight stays, ties grow by index: two salient in the first neuron, one, none
    flat = torch.zeros(3, 2)
    assert moved(weight, mask, flat, Fraction(2, 3), 1.0, 3).sum(1).tolist() == [1, 1, 0]
    assert moved(weight, mask, flat, Fraction(2, 3), 1.0, 4).sum(1).tolist() == [2, 2, 0]
    # what is gone takes no part, however large its |g|
    mask[2] = False
    loud = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    assert moved(weight, mask, loud, Fraction(1), 1.0, 4).sum(1).tolist() == [2, 2, 0]


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(gamma):
    with pytest.raises(ValueError, match="gamma_sal"):
        strategy("srigl", sparsity=0.5, gamma_sal=gamma)
