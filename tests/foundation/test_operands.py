"""What a forward pass takes of its parameters, against what a spy on the functions sees."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.overrides import TorchFunctionMode

from prunekit.foundation.operands import operands
from tests.support.scored import kept

NEW = "parametrizations.weight.original"
SEEN = {F.linear, F.conv1d, F.conv2d, F.conv_transpose2d}


class Spy(TorchFunctionMode):
    """The zeros and entries of every weight that a linear layer or convolution is given."""

    def __init__(self):
        super().__init__()
        self.zeros = self.entries = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in SEEN:
            self.zeros += int((args[1] == 0).sum())
            self.entries += args[1].numel()
        return func(*args, **(kwargs or {}))


def mask_in(model, masks):
    named = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            named[name] *= mask


def factors(model, x, masks):
    mask_in(model, masks)
    found = operands(model, {name: ~mask for name, mask in masks.items()}, (x,), {})
    return [one for one in found if one.macs is not None]


class Sliced(nn.Module):
    """Uses the halves of a weight apart, one of them turned."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        top, bottom = self.weight.chunk(2)
        return x @ top.t() + F.linear(x, bottom.contiguous())


class Latent(nn.Module):
    """A learnt token asks: its query is of parameters alone, and no weight."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4))
        self.q, self.k = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.k(x) @ self.q(self.token).t()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("model", "shape", "name"),
    [
        (nn.Linear(4, 3), (2, 4), "weight"),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5), "weight"),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5), "weight"),
        (nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (2, 4, 5, 5), "weight"),
        (nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5), "weight"),
        (Tied(), (2, 4), "first.weight"),
        (parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4), f"{NEW}1"),
        (parametrizations.spectral_norm(nn.Linear(4, 3)), (2, 4), NEW),
        (parametrizations.orthogonal(nn.Linear(4, 4)), (2, 4), NEW),
        (prune.random_unstructured(nn.Linear(4, 3), "weight", 4), (2, 4), "weight_orig"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)  # fmt: skip
def test_the_factors_are_those_that_the_functions_are_given(model, shape, name):
    parameter = dict(model.named_parameters())[name]
    mask = kept(parameter.shape, 5)
    x = torch.randn(*shape)
    found = factors(model, x, {name: mask})
    with torch.no_grad(), Spy() as spy:
        model.eval()(x)
    assert spy.entries
    alike = [one for one in found if one.meets_data]
    assert sum(one.zeros for one in alike) == spy.zeros
    assert sum(one.entries for one in alike) == spy.entries


def test_views_and_copies_are_the_parameter_itself():
    model = Sliced()
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[0, :3] = mask[5, :2] = False
    found = factors(model, torch.randn(2, 4), {"weight": mask})
    assert [(one.as_is, one.entries) for one in found] == [(True, 12), (True, 12)]
    assert found[0].zeros == 3  # a view shows its own part of the mask
    assert sum(one.macs for one in found) == 2 * 24


def test_what_is_made_of_parameters_alone_is_told_from_what_meets_the_input():
    found = factors(Latent(), torch.randn(3, 4), {"q.weight": kept((4, 4), 7)})
    first, *later = found
    assert (first.as_is, first.meets_data, first.zeros) == (True, False, 7)
    assert [(one.as_is, one.meets_data) for one in later] == [(False, True)]


def test_a_cast_is_no_other_weight():
    model = nn.Linear(8, 4)
    mask = kept((4, 8), 9)
    mask_in(model, {"weight": mask})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = operands(model, {"weight": ~mask}, (torch.randn(2, 8),), {})
    (one,) = [one for one in found if one.macs is not None]
    assert (one.as_is, one.zeros, one.entries) == (True, 9, 32)


def test_nothing_of_the_model_changes_and_no_number_is_drawn():
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)), nn.BatchNorm1d(6), nn.Dropout(0.5)
    ).train()
    model[1].eval()
    pruned, x = {"0.parametrizations.weight.original": ~kept((6, 6), 5)}, torch.randn(4, 6)
    before, noise = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    operands(model, pruned, (x,), {})
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert torch.backends.mha.get_fastpath_enabled()


class Counting(nn.Module):
    """Changes a buffer in evaluation too, and draws."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.fc(x + torch.rand(()))


def test_a_model_that_counts_its_calls_does_not_count_this_one():
    model, x, mask = Counting(), torch.randn(3, 4), kept((2, 4), 3)
    noise = torch.get_rng_state()
    (one,) = factors(model, x, {"fc.weight": mask})
    assert (one.as_is, one.zeros) == (True, 3)
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), noise)


def test_what_is_written_in_place_counts_as_what_it_was_written_from():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            out = torch.zeros(len(x), 4)
            out[:, :4] = x
            return F.linear(out, self.fc.weight * 2)

    (one,) = factors(Writes(), torch.randn(3, 4), {"fc.weight": kept((4, 4), 6)})
    assert (one.as_is, one.meets_data, one.zeros) == (False, True, 6)
