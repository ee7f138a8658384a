"""State beside the masks: torch's AveragedModel, and the buffers that a loop saves itself."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from prunekit import Pruner, strategy
from prunekit.pruning.selection import keep_count

STEPS = 24
ENTRIES = 6 * 16 + 16 * 3


def pruning(mode):
    return strategy("magnitude", sparsity=0.75, mode=mode, cadence={"every": "2st"})


def loop(mode, look, steps=STEPS):
    """Train a small net with BatchNorm -> its pruner; `look(pruner)` sees it after each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    pruner = Pruner(model, [pruning(mode)], total_steps=STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    pruner.attach(optimizer)
    for _ in range(steps):
        x = torch.randn(32, 6)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
        look(pruner)
    return pruner


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2)


@pytest.mark.parametrize("mode", ["ste", "masked", "hard"])
def test_an_average_of_the_dense_weights_ends_at_the_sparsity_of_the_masks(mode):
    averages, seen, naive = [], [], []

    def look(pruner):
        if not averages:
            averages.append(AveragedModel(pruner.model, use_buffers=True))
            naive.append(AveragedModel(pruner.model))
        seen.append({name: pruner.dense(name).clone() for name in pruner.params})
        naive[0].update_parameters(pruner.model)
        with pruner.dense_weights():
            averages[0].update_parameters(pruner.model)

    pruner = loop(mode, look)
    pruned = ENTRIES - keep_count(ENTRIES, 0.75)
    assert zeros(naive[0].module) < pruned  # what was kept once is not zero in it
    averaged, masks = averages[0].module, pruner.masks()
    for name, average in averaged.named_parameters():
        mean = torch.stack([dense[name] for dense in seen]).mean(0)
        torch.testing.assert_close(average.detach(), mean)
        pruner.set_dense(name, average.detach())
    model = pruner.finish()
    assert zeros(model) == pruned
    for name, param in model.named_parameters():
        assert torch.equal(param, averaged.get_parameter(name) * masks.get(name, 1))


@pytest.mark.parametrize("mode", ["ste", "masked", "hard"])
def test_to_look_at_the_dense_weights_changes_nothing(mode):
    def look(pruner):
        held = {name: param.clone() for name, param in pruner.params.items()}
        with pruner.dense_weights():
            for name, param in pruner.model.named_parameters():
                assert torch.equal(param, pruner.dense(name))
        assert all(torch.equal(param, held[name]) for name, param in pruner.params.items())

    watched, alone = loop(mode, look), loop(mode, lambda _: None)
    assert all(torch.equal(watched.dense(name), alone.dense(name)) for name in alone.params)


def test_the_weights_come_back_after_an_error():
    pruner = loop("ste", lambda _: None)
    held = [param.clone() for param in pruner.model.parameters()]
    with pytest.raises(ZeroDivisionError), pruner.dense_weights():
        raise ZeroDivisionError
    assert all(map(torch.equal, pruner.model.parameters(), held))


def test_a_loop_that_saves_the_buffers_too_goes_on_as_if_it_had_not_stopped():
    """As docs/loop.md says; without them the statistics of BatchNorm would begin anew."""
    saved = {}

    def look(pruner):
        if pruner.step == STEPS // 2:
            dense = {name: pruner.dense(name).clone() for name in pruner.params}
            buffers = copy.deepcopy(dict(pruner.model.named_buffers()))
            saved.update(state=pruner.state_dict(), dense=dense, buffers=buffers)

    loop("ste", look)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    pruner = Pruner(model, [pruning("ste")], total_steps=STEPS, resuming=True)
    pruner.load_state_dict(saved["state"], saved["dense"])
    x = torch.randn(9, 6)
    before = model.eval()(x)
    for name, buffer in model.named_buffers():
        buffer.copy_(saved["buffers"][name])
    reached = loop("ste", lambda pruner: None, steps=STEPS // 2).model.eval()(x)
    torch.testing.assert_close(model(x), reached, rtol=0, atol=0)
    assert not torch.allclose(before, reached)
