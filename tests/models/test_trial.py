"""Which batches a model takes: told without a step, as the model itself would tell in one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit.models.trial import refusal

SHAPE = (2, 4, 4)


class Squeezed(nn.Module):
    """Drops the batch, where it is one: `squeeze` without a dimension."""

    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.pool(x).squeeze().flatten(1))


class ByValue(nn.Module):
    """Asks for a value, which the meta device does not have."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(2, momentum=None), nn.Linear(2, 3)

    def forward(self, x):
        x = self.norm(x.mean((2, 3), keepdim=True))
        return self.head(x.flatten(1)) + float(x.detach().sum() * 0)


class Own(nn.BatchNorm2d):
    """A layer of somebody else's, that calls torch's function."""

    def forward(self, x):
        training = self.training
        return F.batch_norm(x, self.running_mean, self.running_var, training=training)


class Mean(nn.Module):
    """No norm at all, and random in training."""

    def forward(self, x):
        return F.dropout(x.mean((2, 3)), 0.5, self.training).repeat(1, 2)


def behind(*norm, pool=True):
    """A convolution, `norm` over 1x1 or 4x4 positions, and a head."""
    positions = [nn.AdaptiveAvgPool2d(1)] if pool else []
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), *positions, *norm, nn.Flatten(), nn.Linear(4 if pool else 64, 3)
    )


def cube(norm):
    return nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (32, 1, 1, 1)), norm, nn.Flatten(1),
                         nn.Linear(32, 3))  # fmt: skip


NETS = {
    "2d over one position": lambda: behind(nn.BatchNorm2d(4)),
    "2d over 16 positions": lambda: behind(nn.BatchNorm2d(4), pool=False),
    "1d": lambda: behind(nn.Flatten(), nn.BatchNorm1d(4)),
    "3d": lambda: cube(nn.BatchNorm3d(32)),
    "sync": lambda: behind(nn.SyncBatchNorm(4)),
    "without statistics": lambda: behind(nn.BatchNorm2d(4, track_running_stats=False)),
    "own": lambda: behind(Own(4)),
    "by value": ByValue,
    "instance over 16 positions": lambda: behind(nn.InstanceNorm2d(4), pool=False),
    "instance over one": lambda: behind(nn.InstanceNorm2d(4)),
    "instance with statistics": lambda: behind(nn.InstanceNorm2d(4, track_running_stats=True)),
    "layer": lambda: behind(nn.Flatten(), nn.LayerNorm(4)),
    "group": lambda: behind(nn.GroupNorm(2, 4), pool=False),
    "squeezed": Squeezed,
    "mean": Mean,
}


def fails(model, size, training):
    """The oracle: a real pass of the model."""
    model = copy.deepcopy(model).train(training)
    try:
        F.cross_entropy(model(torch.randn(size, *SHAPE)), torch.zeros(size, dtype=torch.long))
    except Exception:
        return True
    return False


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_what_is_told_is_what_a_pass_does(name, training):
    model = NETS[name]()
    for size in (1, 2, 3):
        found = refusal(model, SHAPE, size, training=training)
        assert (found is not None) == fails(model, size, training), size
        if found is not None:
            assert found.at_any_size == fails(model, size + 1, training)


def test_a_refusal_names_the_layer():
    found = refusal(behind(nn.BatchNorm2d(4)), SHAPE, 1, training=True)
    assert found.why == "2 (BatchNorm2d) has one value to normalise over"
    found = refusal(Squeezed(), SHAPE, 1, training=True)
    assert found.why.startswith("pool (AdaptiveAvgPool2d) does not take it: ")


def test_a_norm_over_all_processes_has_the_values_of_all():
    model = behind(nn.SyncBatchNorm(4))
    assert refusal(model, SHAPE, 1, training=True) is not None
    assert refusal(model, SHAPE, 1, training=True, wider=nn.SyncBatchNorm) is None
    assert (
        refusal(behind(nn.BatchNorm2d(4)), SHAPE, 1, training=True, wider=nn.SyncBatchNorm)
        is not None
    )


def test_a_model_that_takes_no_batch_is_left_to_its_own_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(7, 3))
    assert refusal(model, SHAPE, 1, training=True) is None


@pytest.mark.parametrize("name", NETS)
def test_a_trial_leaves_model_and_random_state_alone(name):
    model = NETS[name]().train()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    refusal(model, SHAPE, 1, training=False)
    refusal(model, SHAPE, 2, training=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())
