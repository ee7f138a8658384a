"""The end of a run whose strategy leaves another model than the one that was trained."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from prunekit import CheckpointError, load_model, open_run
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.registry import STRATEGIES
from tests.support.training import run

CHANNELS = {"sparsity": 0.5, "scope": {"include": ["fc1.weight"]}, "structure": "channel"}
INPUTS, HIDDEN, CLASSES = 64, 16, 10


class Removing(Magnitude):
    """Take the closed hidden units out for good."""

    class Config(Magnitude.Config):
        name: Literal["removing"]  # type: ignore[assignment]

    def finish(self, model: nn.Module) -> nn.Module:
        fc1, fc2 = model.get_submodule("fc1"), model.get_submodule("fc2")
        kept = fc1.weight.any(1).nonzero()[:, 0]
        fc1.weight, fc1.bias = (nn.Parameter(p.detach()[kept]) for p in (fc1.weight, fc1.bias))
        fc2.weight = nn.Parameter(fc2.weight.detach()[:, kept])
        return model


class Wrapping(Magnitude):
    """Leave something that no config builds."""

    class Config(Magnitude.Config):
        name: Literal["wrapping"]  # type: ignore[assignment]

    def finish(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model)


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with STRATEGIES.temporarily("removing", Removing):
        return run(tmp_path_factory.mktemp("out"), strategies=[{"name": "removing", **CHANNELS}])


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("out"), strategies=[{"name": "magnitude", **CHANNELS}])


def images() -> Tensor:
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_smaller_model_is_built_from_its_own_file(removed: Path, masked: Path) -> None:
    small = load_model(removed)
    assert [tuple(p.shape) for p in small.parameters()] == [(8, 64), (8,), (10, 8), (10,)]
    torch.testing.assert_close(small(images()), load_model(masked)(images()))


def test_its_report_counts_what_was_trained_and_what_is_left(removed: Path) -> None:
    report = open_run(removed).report()
    dense = INPUTS * HIDDEN + HIDDEN * CLASSES
    small = INPUTS * 8 + 8 * CLASSES
    assert report["macs"] == {"dense": dense, "executed": small, "theoretical": small}
    biases = HIDDEN + CLASSES
    assert report["parameters"] == {
        "total": dense + biases,
        "nonzero": small + 8 + CLASSES,
        "pruned": 0,
        "removed": dense + biases - (small + 8 + CLASSES),
        "stored": small + 8 + CLASSES,
    }
    assert report["train"]["flops"] == 6 * dense * report["train"]["images"]
    assert report["warnings"] == []


def test_its_masks_are_those_of_the_training(removed: Path, masked: Path) -> None:
    masks, others = open_run(removed).masks(), open_run(masked).masks()
    assert masks.keys() == others.keys() == {"fc1.weight", "fc1.bias"}
    assert all(torch.equal(masks[name], others[name]) for name in masks)


class Emptying(Magnitude):
    """Take all hidden units out: no config has a layer of none."""

    class Config(Magnitude.Config):
        name: Literal["emptying"]  # type: ignore[assignment]

    def finish(self, model: nn.Module) -> nn.Module:
        fc1, fc2 = model.get_submodule("fc1"), model.get_submodule("fc2")
        fc1.weight, fc1.bias = (nn.Parameter(p.detach()[:0]) for p in (fc1.weight, fc1.bias))
        fc2.weight = nn.Parameter(fc2.weight.detach()[:, :0])
        return model


def test_zeros_of_another_strategy_count_in_what_is_left(tmp_path: Path) -> None:
    other = {"name": "magnitude", "sparsity": 0.5, "scope": {"include": ["fc2.weight"]}}
    with STRATEGIES.temporarily("removing", Removing):
        done = run(tmp_path, strategies=[{"name": "removing", **CHANNELS}, other])
    report = open_run(done).report()
    nonzero = sum(int((p != 0).sum()) for p in load_model(done).parameters())
    assert report["parameters"]["nonzero"] == nonzero < report["parameters"]["stored"]
    assert report["macs"]["theoretical"] < report["macs"]["executed"]


@pytest.mark.parametrize(("name", "cls"), [("wrapping", Wrapping), ("emptying", Emptying)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_that_no_config_builds_is_written_and_said_so(
    name: str, cls: type[Magnitude], tmp_path: Path
) -> None:
    with STRATEGIES.temporarily(name, cls):
        done = run(tmp_path, strategies=[{"name": name, "sparsity": 0.5}])
    (warning,) = open_run(done).report()["warnings"]
    assert warning.startswith(f"model.safetensors: no config of 'mlp' builds what {name!r} left")
    with pytest.raises(CheckpointError, match="does not tell which model it holds"):
        load_model(done)
