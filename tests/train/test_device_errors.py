"""A device that fails is told as what it said, wherever it is said first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunekit.errors import ResourceError, WriteError
from prunekit.foundation.files import read_json
from prunekit.loggers.event_files import EventFiles
from prunekit.models.latency import measure_latency
from prunekit.pruning.effective import told_effective
from prunekit.runs import checkpoint
from prunekit.runs.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from prunekit.train.losses.cross_entropy import CrossEntropy
from prunekit.train.state import ModelState
from tests.support.training import run

ASSERT = "CUDA error: device-side assert triggered"
FAULTS = [
    torch.AcceleratorError(ASSERT),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


class Unread(Tensor):
    """What cannot be brought to the host any more."""

    fault: RuntimeError

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        raise self.fault

    def detach(self) -> Tensor:
        return self


def unread(fault: RuntimeError) -> Tensor:
    made = torch.zeros(2).as_subclass(Unread)
    made.fault = fault
    return made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("in_state", [False, True])
def test_a_save_passes_on_what_the_device_says(
    tmp_path: Path, fault: RuntimeError, in_state: bool
) -> None:
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {})
    good, lost = torch.ones(2), unread(fault)
    weights = {"w": good if in_state else lost}
    state = {"optimizer": {"state": {0: {"exp_avg": [lost if in_state else good]}}}}
    with pytest.raises(RuntimeError) as caught:
        save_checkpoint(tmp_path, 2, weights, state)
    assert caught.value is fault
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]


def test_a_full_disk_is_still_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(WriteError, match=r"could not be written \(RuntimeError.*free some space"):
        save_checkpoint(tmp_path, 2, {"w": torch.ones(2)}, {})


def test_what_is_saved_from_a_device_is_what_was_there(tmp_path: Path) -> None:
    w = torch.arange(6.0).view(2, 3)
    state = {"pair": (w.T, 7), "list": [w, "text"], "none": None, "dict": {"b": w.bool()}}
    found = load_checkpoint(save_checkpoint(tmp_path, 3, {"w": w.T}, state))
    assert torch.equal(found.weights["w"], w.T)
    assert torch.equal(found.state["pair"][0], w.T)
    assert found.state["pair"][1:] == (7,)
    assert torch.equal(found.state["list"][0], w)
    assert found.state["dict"]["b"].dtype == torch.bool
    assert found.state["none"] is None


def lose_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: RuntimeError) -> None:
    """The third call of a method fails."""
    own: Callable[..., Any] = getattr(owner, name)
    calls = []

    def lost(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == 3:
            raise fault
        return own(*args, **kwargs)

    monkeypatch.setattr(owner, name, lost)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(ModelState, "weights"), (CrossEntropy, "value"), (EventFiles, "scalars")],
    ids=["saving", "loss", "logging"],
)
def test_a_run_ends_with_the_name_of_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    lose_at(monkeypatch, owner, name, torch.AcceleratorError(ASSERT))
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        run(tmp_path)
    status = read_json(tmp_path / "tiny/latest/status.json")
    assert (status["status"], status["exit_code"]) == ("failed", 1)
    assert status["message"] == f"AcceleratorError: {ASSERT}"
    assert checkpoints(tmp_path / "tiny/latest")


def test_a_lack_of_memory_while_saving_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_at(monkeypatch, ModelState, "weights", FAULTS[1])
    with pytest.raises(ResourceError, match=r"^out of memory: set data\.micro_batch") as caught:
        run(tmp_path)
    assert not isinstance(caught.value, WriteError)
    status = read_json(tmp_path / "tiny/latest/status.json")
    assert (status["status"], status["exit_code"]) == ("failed", 8)


def test_a_lack_of_memory_before_the_first_step_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise FAULTS[1]

    monkeypatch.setattr("prunekit.train.build.open_dataset", full)
    with pytest.raises(ResourceError, match=r"set data\.micro_batch"):
        run(tmp_path)


class Lost(nn.Module):
    """A module on a device that is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        raise torch.AcceleratorError(ASSERT)


def test_what_costs_are_measured_by_hides_no_lost_device() -> None:
    with pytest.raises(torch.AcceleratorError):
        measure_latency(Lost(), None, (1, 4, 4), 0.1)
    with pytest.raises(torch.AcceleratorError):
        told_effective(Lost(), {}, ((torch.zeros(1, 1, 4, 4),), {}))
