"""Layout, averages, filled-up batches and norms over processes, where a GPU would compute."""

import tempfile
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from prunekit.runs.directory import open_run
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run
from prunekit.train.passes import Passes
from prunekit.train.synced_norms import SyncedNorms
from prunekit.train.trainer import Trainer
from tests.rehearsal.device import NAME, host_waits
from tests.rehearsal.process import DeviceProcess
from tests.support.training import MAGNITUDE, result, rewound, run, same

RESNET: dict[str, Any] = {
    "data": {
        "name": "digits",
        "batch_size": 32,
        "micro_batch": 12,  # 12, 12, 8
        "eval_batch": 20,
        "train_limit": 96,
        "test_limit": 30,
    },
    "model": {"name": "resnet", "depth": 8, "stages": [4, 4, 4]},
    "strategies": [MAGNITUDE | {"mode": "ste"}],
    "phases": [{"name": "train", "length": "7st"}],
    "ema": {"decay": 0.9},
    "evaluate": {"every": "7st"},
    "logging": {"every": "7st"},
    "device": NAME,
}


@dataclass
class Seen:
    """Of a run on the pretend device."""

    channels_last: set[bool]
    waits: dict[int, str]
    """t + 1 -> what the host waited for in a step that decides no masks."""
    resumed: bool
    """Whether it ends as it did when it is killed and goes on."""
    masks: dict[str, torch.Tensor]


def run_there(changes: dict[str, Any]) -> Seen:
    layouts, waits = set[bool](), dict[int, str]()
    laid_out, advance = Passes._laid_out, Trainer.advance

    def layout(self: Passes, images: torch.Tensor) -> torch.Tensor:
        found = laid_out(self, images)
        layouts.add(found.stride(1) == 1)
        return found

    def counted(self: Trainer) -> None:
        with host_waits() as found:
            advance(self)
        if not self.engine.updated():
            waits[self.engine.step] = str(found) if len(found) else ""

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with patch.object(Passes, "_laid_out", layout), patch.object(Trainer, "advance", counted):
            done = run(Path(folder) / "run", **RESNET | changes)
        again = resume_run(rewound(done, 5, Path(folder) / "killed"))
        masks = open_run(done).masks()
        return Seen(layouts, waits, same(result(done), result(again)), masks)


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"precision": "bf16"}, True),
        ({"precision": "fp32", "deterministic": True}, False),
        ({"precision": "fp32", "channels_last": True}, True),
    ],
    ids=str,
)
def test_a_step_waits_for_nothing_and_a_resumed_run_is_the_undisturbed_one(
    pretend: DeviceProcess, tmp_path: Path, changes: dict[str, Any], last: bool
) -> None:
    seen = pretend(run_there, changes)
    assert seen.channels_last == {last}
    assert seen.resumed
    plain = {step: told for step, told in seen.waits.items() if step > 1}  # the first makes state
    assert plain == dict.fromkeys((2, 4), "")
    if changes["precision"] == "fp32":
        here = open_run(run(tmp_path, **RESNET | changes | {"device": "cpu"})).masks()
        assert same(seen.masks, here)


def norm_there(dtype: torch.dtype) -> tuple[list[torch.Tensor], int]:
    """A norm over all processes, of which this is the only one; and what the host waited for."""
    made, waits = norm(NAME, dtype)
    return [one.cpu() for one in made], waits


def norm(device: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], int]:
    draws = torch.Generator().manual_seed(0)
    given = torch.randn(6, 3, 4, 4, generator=draws).to(dtype)
    x = given.to(device).requires_grad_()
    layer = torch.nn.BatchNorm2d(3, device=device)
    group = ProcessGroup(0, 1, torch.device(device))
    with (
        patch("torch.distributed.all_gather", lambda into, own: into[0].copy_(own)),
        SyncedNorms(group),
        host_waits() if device == NAME else nullcontext(()) as found,
    ):
        out = layer(x)
        out.float().square().sum().backward()
    made = [out.detach(), x.grad, layer.weight.grad, layer.running_mean, layer.running_var]
    return made, len(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_over_processes_needs_nothing_of_a_cpu(
    pretend: DeviceProcess, dtype: torch.dtype
) -> None:
    there, waits = pretend(norm_there, dtype)
    for found, expected in zip(there, norm("cpu", dtype)[0], strict=True):
        assert torch.equal(found, expected)
    assert waits == 0
