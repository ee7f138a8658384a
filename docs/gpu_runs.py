"""What is trained by `gpu_check.py`: its data, its sizes, and its speed beside a loop by hand."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from gpu_check import Settings

from prunekit.foundation.autocast import DTYPES, autocast
from prunekit.foundation.devices import wait_for
from prunekit.models.cost import count_macs, train_flops
from prunekit.recipe.schema import Recipe
from prunekit.registry.own_code import use_code
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer

MADE = '''"""Images of noise, as many and as large as CIFAR-10 has."""

import torch

from prunekit.registry.configs import Samples


def made_images(train: bool, count: int = 0) -> Samples:
    count = count or (50_000 if train else 10_000)
    source = torch.Generator().manual_seed(int(train))
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=source)
    return Samples(images, torch.arange(count) % 10, tuple("abcdefghij"))
'''
SMALL = [
    *("compile=false", "precision=fp32", "data.image_size=32", "data.batch_size=16"),
    *("data.train_limit=64", "data.test_limit=32", "phases.0.length=8ep"),
    *("model.patch_size=8", "model.depth=1", "model.embed_dim=32", "model.heads=2"),
    "strategies.0.cadence.every=2st",
]
"""`vit_cifar_tome` at a size of seconds on a CPU."""
HALF = 20
RESUMED: dict[str, Any] = {
    "name": "resumed",
    "data": {"name": "digits", "batch_size": 64, "train_limit": 640, "test_limit": 100},
    "model": {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 64, "heads": 4},
    "compressors": [{"name": "tome", "ratio": 0.4}],
    "strategies": [{"name": "magnitude", "sparsity": 0.8, "cadence": {"every": "5st"}}],
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "phases": [{"name": "train", "length": f"{2 * HALF}st"}],
    "checkpoint": {"every": f"{HALF}st"},
}


@contextmanager
def code(settings: Settings) -> Iterator[list[str]]:
    """The overrides for the data at hand, or for made images, whose code is in use within."""
    rest = "image_size: 224, batch_size: 256, augment: [flip, crop]"
    if settings.data is not None:
        yield [f"data={{name: image_folder, root: {settings.data}, {rest}}}"]
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made_images.py"
        file.write_text(MADE, encoding="utf-8")
        with use_code(file):
            few = ", count: 64" if settings.rehearse else ""
            yield [f"data={{name: made_images, {rest}{few}}}"]


def peak_tflops(device: torch.device, size: int) -> float:
    """TFLOP/s of a plain product in bf16, the best of ten: what a whole step can be measured by."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(_seconds(lambda: a @ b, device) for _ in range(10))
    return 2 * size**3 / best / 1e12


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - began


def speeds(recipe: Recipe, device: torch.device, rounds: int) -> dict[str, float]:
    """Steps of the trainer and of a loop by hand in turn, `rounds` times.

    Both have the same model, compiled, the same optimizer, precision and batches; the loop has no masks and logs nothing.
    """
    run = build(recipe, ProcessGroup(0, 1, device))
    by_hand = _Loop(copy.deepcopy(run.model), run.data, recipe, device)
    images, few = recipe.data.batch_size, 3 if rounds < 3 else 20
    found: dict[str, list[float]] = {"own": [], "hand": [], "fixed": []}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(run, Path(folder), Observer(run, Path(folder)))
        trainer.begin()
        ways = {"own": trainer.advance, "hand": by_hand.step, "fixed": by_hand.step_on_one_batch}
        compiling = {f"{name}_first_seconds": _seconds(step, device) for name, step in ways.items()}
        for _ in range(rounds):
            if trainer.engine.step + few > trainer.total:
                break
            for name, step in ways.items():
                found[name].append(_seconds(partial(_repeat, step, few), device) / few)
        trainer.observer.log_to.close()
    flops = train_flops(count_macs(run.model, run.data.spec.input_shape, training=True), 1)
    times = {name: median(seconds) for name, seconds in found.items()}
    return {
        **compiling,
        "flops_per_image": flops,
        **{f"{name}_images_per_second": images / seconds for name, seconds in times.items()},
        **{f"{name}_tflops": flops * images / seconds / 1e12 for name, seconds in times.items()},
        "own_over_hand": median(a / b for a, b in zip(found["own"], found["hand"], strict=True)),
        "epoch_seconds": times["own"] * run.data.steps_per_epoch,
    }


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


class _Loop:
    """What one would write: forward, backward, clip, step."""

    def __init__(
        self, model: torch.nn.Module, data: Any, recipe: Recipe, device: torch.device
    ) -> None:
        self.data, self.device, self.t = data, device, 0
        self.model = model
        self.forward = torch.compile(model) if recipe.compile else model
        self.dtype = DTYPES[recipe.precision]
        fused = device.type != "cpu"
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-3, weight_decay=0.05, fused=fused
        )
        self.fixed = next(iter(data.micro_batches(0)))

    def step(self) -> None:
        """On the batch that the trainer has at this step."""
        self._learn(*next(iter(self.data.micro_batches(self.t))))
        self.t += 1

    def step_on_one_batch(self) -> None:
        """Without making a batch."""
        self._learn(*self.fixed)

    def _learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.dtype, self.device):
            logits = self.forward(x)
        F.cross_entropy(logits.float(), y).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
