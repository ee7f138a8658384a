"""A few real steps of a recipe, timed. Runs in a worker; torch-free at import."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prunekit.recipe.load import recipe_from_text

if TYPE_CHECKING:
    from prunekit.train.trainer import Trainer

WARM_UP = 3
MIN_STEPS = 5
MAX_STEPS = 300
ENOUGH_SECONDS = 1.0
TOO_LONG_SECONDS = 20.0
"""Where a step takes seconds, as many as fit."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the parts of a run, in this process and with what runs beside it."""

    start: float
    """From nothing to the first step: data, model, first masks."""
    step: float
    """One optimizer step, logging and probes included."""
    evaluate: float
    """One evaluation."""
    save: float
    """One checkpoint."""
    end: float
    """Counting, the latency and the last evaluation."""
    steps_per_epoch: int


def time_recipe(text: str) -> Timing:
    """Time a recipe; it leaves no file.

    Args:
        text: YAML.

    Raises:
        PrunekitError: what is wrong with it, its data or its plugins.
    """
    from prunekit.build import build
    from prunekit.models.cost import count_macs, measure_latency
    from prunekit.train.distributed import join
    from prunekit.train.observer import Observer
    from prunekit.train.trainer import Trainer

    recipe = recipe_from_text(text)
    group = join()
    build(recipe, group)  # the first time decodes images, which are kept
    with TemporaryDirectory(prefix="prunekit-") as folder:
        began = time.perf_counter()
        run = build(recipe, group)
        trainer = Trainer(run, Path(folder), Observer(run, Path(folder)))
        trainer.begin()
        trainer.observer.begin(trainer)
        start = time.perf_counter() - began
        step = _time_steps(trainer)
        began = time.perf_counter()
        trainer.save()
        save = time.perf_counter() - began
        evaluate = _time_evaluation(trainer)
        began = time.perf_counter()
        spec = run.data.spec
        shape = (spec.channels, spec.height, spec.width)
        masks = {name: mask.cpu() for name, mask in run.pruner.masks().items()}
        for _ in range(3):  # as trained, in training, and finished
            count_macs(run.model, shape, masks)
        measure_latency(run.model, shape, 1, group.device)
        end = time.perf_counter() - began + evaluate
        trainer.observer.log_to.close()
    return Timing(start, step, evaluate, save, end, run.timeline.steps_per_epoch)


def _time_steps(trainer: Trainer) -> float:
    """Mean seconds of a step after the first few; what a run does after each step is in it."""
    took: list[float] = []
    enough = min(MAX_STEPS + WARM_UP, trainer.total)
    while len(took) < enough and sum(took) < TOO_LONG_SECONDS:
        if len(took) >= MIN_STEPS + WARM_UP and sum(took) >= ENOUGH_SECONDS:
            break
        began = time.perf_counter()
        trainer.advance()
        trainer.observer.saw_update(trainer)
        trainer.observer.log_details(trainer)
        if trainer.observer.due(trainer.pruner.step):
            trainer.observer.log(trainer)
        if trainer.device.type == "cuda":
            _wait_for_gpu()
        took.append(time.perf_counter() - began)
    counted = took[WARM_UP:] or took[1:] or took
    return sum(counted) / len(counted)


def _time_evaluation(trainer: Trainer) -> float:
    """Seconds for the test split, from as much of it as fits in a second or two."""
    import torch

    model, seen = trainer.compiled.eval(), 0
    began = time.perf_counter()
    with torch.no_grad():
        for images, labels in trainer.data.eval_batches("test"):
            with trainer.precision.autocast():
                model(images)
            if trainer.device.type == "cuda":
                _wait_for_gpu()
            seen += len(labels)
            if time.perf_counter() - began > ENOUGH_SECONDS:
                break
    return (time.perf_counter() - began) * trainer.data.test_size / seen


def _wait_for_gpu() -> None:
    import torch

    torch.cuda.synchronize()
