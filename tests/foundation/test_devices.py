"""Which device a run takes, told by the device or by a machine that is only pretended."""

import pytest
import torch

from prunekit.errors import RecipeError, ResourceError
from prunekit.foundation import devices
from prunekit.foundation.devices import (
    as_float64,
    choose_device,
    device_of_run,
    random_states_kept,
)


class Machine:
    """Accelerators of one type, as `torch.accelerator` tells of them."""

    def __init__(self, kind, count):
        self.kind, self.count, self.taken = kind, count, None

    def current_accelerator(self, check_available=False):
        return torch.device(self.kind) if self.kind else None

    def device_count(self):
        return self.count

    def set_device_index(self, index):
        self.taken = index


@pytest.fixture
def machine(monkeypatch):
    """Have a machine with these accelerators; all of them compute."""

    def make(kind=None, count=0):
        made = Machine(kind, count)
        for name in ("current_accelerator", "device_count", "set_device_index"):
            monkeypatch.setattr(torch.accelerator, name, getattr(made, name))
        monkeypatch.setattr(devices, "why_not", lambda device: "")
        return made

    return make


def test_auto_takes_the_accelerator_else_the_cpu(machine):
    machine()
    assert choose_device() == torch.device("cpu")
    gpus = machine("cuda", 2)
    assert choose_device("auto", 1, alone=False) == torch.device("cuda", 1)
    assert gpus.taken == 1
    machine("xpu", 1)
    assert choose_device() == torch.device("xpu", 0)
    machine("mps", 1)  # not before, and not unasked
    assert choose_device() == torch.device("cpu")
    assert choose_device("mps") == torch.device("mps", 0)


def test_an_index_is_for_one_process(machine):
    gpus = machine("cuda", 4)
    assert choose_device("cuda:3") == torch.device("cuda", 3)
    assert gpus.taken == 3
    assert choose_device("cuda", 2, alone=False) == torch.device("cuda", 2)
    with pytest.raises(RecipeError, match=r"^device: cuda:3 is one device, .*: write cuda,"):
        choose_device("cuda:3", 0, alone=False)
    with pytest.raises(ResourceError, match="process 5 on this machine has no GPU: there are 4"):
        choose_device("cuda", 4, alone=False)


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ("cudaa", "torch here knows no device 'cudaa'. Did you mean 'cuda'?"),
        ("meta", "meta is not to be had here: Tensor.item() cannot be called on meta tensors"),
    ],
)
def test_a_device_that_is_none_is_one_line_with_what_there_is(wanted, what):
    with pytest.raises(RecipeError) as told:
        choose_device(wanted)
    message = str(told.value)
    assert message.startswith(f"device: {what}")
    assert "or one that is: cpu" in message
    assert "\n" not in message


def test_a_finished_run_is_read_where_its_own_device_is_missing():
    assert device_of_run("meta") == choose_device()
    assert device_of_run("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match=r"^device: meta"):
        device_of_run("cpu", "meta")


def test_float64_is_on_the_host_where_the_device_has_none(monkeypatch):
    x = torch.tensor([0.1, 3.0])
    assert as_float64(x).dtype == torch.float64
    moved = []
    monkeypatch.setattr(devices, "has_float64", lambda device: False)
    monkeypatch.setattr(torch.Tensor, "to", _watched(torch.Tensor.to, moved))
    assert torch.equal(as_float64(x), torch.tensor([x[0].item(), 3.0], dtype=torch.float64))
    assert moved == [torch.device("cpu"), torch.float64]  # in this order: there is none over there


def _watched(to, moved):
    def watched(self, *args, **kwargs):
        moved.extend(args)
        return to(self, *args, **kwargs)

    return watched


def test_draws_inside_change_none_after():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with random_states_kept([torch.device("cpu")]):
        torch.rand(7)
    assert torch.equal(torch.rand(4), expected)
