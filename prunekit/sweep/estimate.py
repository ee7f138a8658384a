"""How long a sweep will take: a few real steps of each kind of run, multiplied. Torch-free."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import ResourceError, StopRequestedError
from prunekit.foundation.signals import StopSignals
from prunekit.foundation.timing import call_seconds, mean_seconds
from prunekit.foundation.unfinished import scratch
from prunekit.recipe.load import recipe_from, recipe_from_text
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.sweep.plan import PlannedCell
from prunekit.sweep.workers import POLL_SECONDS, Executor, Task, TaskOutcome

if TYPE_CHECKING:
    from prunekit.train.trainer import Trainer


NOT_IN_SHAPE = ("name", "seed", "anchor", "phases", "evaluate", "checkpoint")
"""Recipe keys on which the time of a step does not depend."""
NOT_IN_STRATEGY = ("sparsity", "schedule", "source", "during")
NOT_IN_OPTIMIZER = ("lr", "weight_decay", "momentum", "betas", "eps")


def shape_of(cell: PlannedCell) -> str:
    """Equal for cells whose steps take the same time: model, data, batch, what prunes, merges."""
    tree = timed_recipe(cell).model_dump(mode="json", exclude=set(NOT_IN_SHAPE))
    for strategy in tree["strategies"]:
        _drop(strategy, NOT_IN_STRATEGY)
    _drop(tree["optimizer"], NOT_IN_OPTIMIZER)
    return json.dumps(tree, sort_keys=True)


def timed_recipe(cell: PlannedCell) -> Recipe:
    """The recipe, with what takes another's run replaced by what costs as much and takes none."""
    if not cell.sources:
        return cell.recipe
    tree: dict[str, Any] = cell.recipe.model_dump(mode="json")
    for path in cell.sources:
        part, *rest = path.split(".")
        if part == "strategies" and rest:
            index = int(rest[0])
            tree["strategies"][index] = _stand_in(tree["strategies"][index])
        else:
            _clear(tree, path)
    return recipe_from(tree)


def _clear(tree: Any, path: str) -> None:
    """Set a key to null: `model.init`, `probes.0.support`."""
    *parents, last = path.split(".")
    for key in parents:
        tree = tree[int(key) if isinstance(tree, list) else key]
    tree[last] = None


def _stand_in(strategy: Mapping[str, Any]) -> dict[str, Any]:
    """Fixed random masks: a fixed mask costs the same, whoever drew it."""
    kept = {key: strategy[key] for key in ("scope", "during") if key in strategy}
    mode = strategy["mode"] if strategy["mode"] != "ste" else "hard"
    return {"name": "random_subnetwork", "sparsity": 0.5, "mode": mode, **kept}


def _drop(tree: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        tree.pop(key, None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the cells that are to be run will take."""

    seconds: Mapping[str, float]
    """Key -> wall seconds of a cell; without those that could not be timed."""
    untimed: Mapping[str, str]
    """Arm -> why none of its steps could be taken."""


def estimate(
    cells: Sequence[PlannedCell], executor: Executor, place: Path | None = None
) -> Estimate:
    """Time one cell of each shape, as many at once as there are jobs.

    Args:
        cells: what is to be run.
        executor: where steps are timed.
        place: the folder for what is written meanwhile, which a process that is stopped on the
            way leaves there; None = that of the system.

    Raises:
        StopRequestedError: SIGINT, SIGTERM or SIGHUP.
        PrunekitError: no shape could be timed: what went wrong with the first.
    """
    shapes: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        shapes.setdefault(shape_of(cell), []).append(cell)
    texts = {shape: _text(group[0]) for shape, group in shapes.items()}
    tasks = [Task(shape, time_recipe, (text, place)) for shape, text in texts.items()]
    outcomes = {outcome.task.tag: outcome for outcome in _all_of(tasks, executor)}
    seconds: dict[str, float] = {}
    untimed: dict[str, str] = {}
    for shape, group in shapes.items():
        timing = outcomes[shape].value
        if timing is None:
            untimed[group[0].arm] = str(outcomes[shape].error or outcomes[shape].died)
        else:
            seconds |= {cell.key: seconds_of(cell.recipe, timing) for cell in group}
    first = outcomes[next(iter(shapes))] if shapes else None
    if first and not seconds:
        raise first.error or ResourceError(f"timing a few steps: {first.died}")
    return Estimate(seconds, untimed)


def _text(cell: PlannedCell) -> str:
    return dump_yaml(timed_recipe(cell))


def _all_of(tasks: Sequence[Task], executor: Executor) -> Iterator[TaskOutcome]:
    waiting = list(tasks)
    with StopSignals() as signals:
        while waiting or executor.busy:
            if signals.times:
                raise StopRequestedError("stopped while steps were timed: no run was begun")
            while waiting and executor.room:
                executor.submit(waiting.pop(0))
            yield from executor.finished(POLL_SECONDS)


def seconds_of(recipe: Recipe, timing: Timing) -> float:
    """Wall seconds of a whole run, evaluation and saving included."""
    epoch = timing.steps_per_epoch
    lengths = [phase.length.steps(0, epoch) for phase in recipe.phases for _ in range(phase.repeat)]
    total = sum(lengths)
    evaluations = total // max(1, recipe.evaluate.every.steps(total, epoch)) + len(lengths)
    saves = total // max(1, recipe.checkpoint.every.steps(total, epoch)) + len(lengths)
    return (
        timing.start
        + total * timing.step
        + evaluations * timing.evaluate
        + saves * timing.save
        + timing.end
    )


def wall_seconds(seconds: Sequence[float], jobs: int) -> float:
    """When the last of these cells ends, each begun as soon as one of `jobs` is free."""
    free = [0.0] * jobs
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


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


def time_recipe(text: str, place: Path | None = None) -> Timing:
    """Time a recipe; it leaves no file.

    Args:
        text: YAML.
        place: as of `estimate`.

    Raises:
        PrunekitError: what is wrong with it, its data or its plugins.
    """
    from prunekit.models.cost import count_macs
    from prunekit.train.build import build
    from prunekit.train.distributed import join
    from prunekit.train.measured import FEWEST_SECONDS
    from prunekit.train.observer import Observer
    from prunekit.train.torch_errors import ToldPlainly
    from prunekit.train.trainer import Trainer

    recipe = recipe_from_text(text)
    group = join(recipe.device)
    build(recipe, group).close()  # the first time decodes images, which are kept
    with ToldPlainly(), scratch(place) as folder:
        began = time.perf_counter()
        run = build(recipe, group)
        with closing(run):
            trainer = Trainer(run, folder, Observer(run, folder))
            trainer.begin()
            trainer.observer.begin(0)
            start = time.perf_counter() - began
            step = _time_steps(trainer)
            save = call_seconds(trainer.save)
            evaluate = _time_evaluation(trainer)
            began = time.perf_counter()
            shape = run.data.spec.input_shape
            masks = {name: mask.cpu() for name, mask in run.engine.masks().items()}
            for _ in range(3):  # as trained, in training, and finished
                count_macs(run.model, shape, masks)
            end = time.perf_counter() - began + evaluate + FEWEST_SECONDS
            trainer.observer.log_to.close()
    return Timing(start, step, evaluate, save, end, run.timeline.steps_per_epoch)


def _time_steps(trainer: Trainer) -> float:
    """Mean seconds of a step after the first few; what a run does after each step is in it."""

    def step() -> None:
        trainer.advance()
        trainer.observer.saw_update()
        trainer.observer.log_details()
        if trainer.observer.due(trainer.engine.step):
            trainer.observer.log(trainer.images, trainer.optimizer.param_groups[0]["lr"])

    took: list[float] = []
    enough = min(MAX_STEPS + WARM_UP, trainer.total)
    while len(took) < enough and sum(took) < TOO_LONG_SECONDS:
        if len(took) >= MIN_STEPS + WARM_UP and sum(took) >= ENOUGH_SECONDS:
            break
        took.append(call_seconds(step, trainer.device))
    return mean_seconds(took, WARM_UP)


def _time_evaluation(trainer: Trainer) -> float:
    """Seconds for the test split, from as much of it as fits in a second or two."""
    import torch

    from prunekit.foundation.devices import wait_for

    trainer.passes.evaluated.eval()
    seen = 0
    began = time.perf_counter()
    with torch.no_grad():
        for images, labels in trainer.data.eval_batches("test"):
            with trainer.precision.autocast():
                trainer.passes.logits(images)
            wait_for(trainer.device)
            seen += len(labels)
            if time.perf_counter() - began > ENOUGH_SECONDS:
                break
    return (time.perf_counter() - began) * trainer.data.test_size / seen
