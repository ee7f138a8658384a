"""The sweep against brute force: a unit is dead where what it hands on never reaches the output."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from nnrelief_nets import BLOCKS, Block
from prunekit_nnrelief.graph import trace
from prunekit_nnrelief.masks import all_kept, masks_of
from prunekit_nnrelief.sweep import live_units
from torch import nn
from torch.func import functional_call


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)
    )


def conv_then_linear():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 3),
    )


def fully_convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


MAKERS = {
    "mlp": mlp,
    "conv": conv_then_linear,
    "all conv": fully_convolutional,
    **{kind: lambda kind=kind: Block(kind) for kind in BLOCKS},
}
CASES = [pytest.param(maker, id=name) for name, maker in MAKERS.items()]


def random_choice(graph, seed, most=0.7):
    """Connections of random density up to `most`, and a few closed units."""
    generator = torch.Generator().manual_seed(seed)
    density = most * float(torch.rand((), generator=generator))
    kept, closed = {}, {}
    for node, layer in graph.layers.items():
        kept[node] = torch.rand(all_kept(layer).shape, generator=generator) < density
        closed[node] = torch.rand(len(kept[node]), generator=generator) < 0.1
        closed[node] &= ~torch.tensor(layer.is_output)
    return kept, closed


def sweep(graph, kept, closed):
    return live_units(graph, {node: rows[:, :-1] for node, rows in kept.items()}, closed)


def reaches(model, graph, kept, closed, node, unit):
    """Whether the output moves when a unit's map does, every kept weight being 1.

    All values are positive, so nothing cancels and no activation stops anything.
    """
    ones = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    for other, layer in graph.layers.items():
        masks = masks_of(layer, kept[other], torch.ones_like(closed[other]))
        ones[layer.weight] = masks[layer.weight].double()
    paths = {layer.path: other for other, layer in graph.layers.items()}
    push = 0.0

    def hook(module, inputs, output):
        found = paths[next(path for path, own in model.named_modules() if own is module)]
        if found is node:
            pushed = torch.full_like(output[:, :1], push)
            output = output.index_add(1, torch.tensor([unit]), pushed)
        gone = closed[found].view(1, -1, *[1] * (output.ndim - 2))
        return torch.where(gone, 0.0, output)

    hooks = [model.get_submodule(path).register_forward_hook(hook) for path in paths]
    x = torch.ones(1, 2, 4, 4, dtype=torch.float64)
    before = functional_call(model, ones, (x,))
    push = 1000.0
    after = functional_call(model, ones, (x,))
    for one in hooks:
        one.remove()
    return not torch.equal(before, after)


@pytest.mark.parametrize("maker", CASES)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_a_unit_lives_where_a_path_leads_to_the_output(maker, seed):
    model = maker().double().eval()
    graph = trace(model)
    kept, closed = random_choice(graph, seed)
    live = sweep(graph, kept, closed)
    for node in graph.layers:
        for unit, lives in enumerate(live[node].tolist()):
            assert lives == reaches(model, graph, kept, closed, node, unit), (node, unit)


@pytest.mark.parametrize("maker", CASES)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_output_does_not_change(maker, training):
    torch.manual_seed(0)
    model = maker().train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.normal_()
    graph, x, dead = trace(model), torch.randn(5, 2, 4, 4), 0
    for seed in range(10):
        kept, _ = random_choice(graph, seed, most=0.3)
        live = sweep(graph, kept, {})
        everywhere = {node: torch.ones_like(rows) for node, rows in live.items()}
        outputs = []
        for units in (everywhere, live):
            masks = {}
            for node, layer in graph.layers.items():
                masks |= masks_of(layer, kept[node], units[node])
            weights = {n: p * masks.get(n, 1.0) for n, p in model.named_parameters()}
            outputs.append(functional_call(model, weights, (x,)))
        assert torch.equal(*outputs)
        dead += sum(int((~rows).sum()) for rows in live.values())
    assert dead > 10


@pytest.mark.parametrize("maker", CASES)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_a_second_sweep_finds_nothing(maker, seed):
    graph = trace(maker())
    kept, closed = random_choice(graph, seed)
    live = sweep(graph, kept, closed)
    again = sweep(graph, {node: rows & live[node][:, None] for node, rows in kept.items()}, closed)
    assert all(torch.equal(rows, again[node]) for node, rows in live.items())


@pytest.mark.parametrize("maker", CASES)
def test_outputs_of_the_model_live_without_a_connection(maker):
    graph = trace(maker())
    kept = {node: torch.zeros_like(all_kept(layer)) for node, layer in graph.layers.items()}
    for node, rows in sweep(graph, kept, {}).items():
        assert rows.all() if graph.layers[node].is_output else not rows.any()


def test_a_channel_lives_through_any_of_its_columns():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    graph = trace(model)
    conv, head = graph.layers
    kept = {node: all_kept(layer) for node, layer in graph.layers.items()}
    kept[head][:, :] = False
    kept[head][1, 7] = True  # column 7 is position 3 of channel 1
    assert sweep(graph, kept, {})[conv].tolist() == [False, True, False]


def test_a_skip_keeps_a_channel_alive_that_the_branch_does_not_need():
    graph = trace(Block())
    nodes = {layer.path: node for node, layer in graph.layers.items()}
    kept = {node: all_kept(layer) for node, layer in graph.layers.items()}
    kept[nodes["conv1"]][:, 2] = False
    assert sweep(graph, kept, {})[nodes["stem"]].tolist() == [True] * 4
    kept[nodes["head"]][:, 8:12] = False  # the columns of channel 2
    live = sweep(graph, kept, {})
    assert live[nodes["stem"]].tolist() == [True, True, False, True]
    assert live[nodes["conv2"]].tolist() == [True, True, False, True]
