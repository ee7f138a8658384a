"""The tasks of `make_comparison.py` beside MNIST: one cut without training, and CIFAR images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

Tree = dict[str, Any]
HARD: Tree = {"mode": "hard", "schedule": "constant", "cadence": {"every": "once"}}


@dataclass(frozen=True)
class TaskCell:
    """One run."""

    task: str
    model: str
    arm: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """The folder of its run."""
        return f"{self.task}_{self.model}_{self.arm}_{round(100 * self.sparsity)}_{self.seed}"


@dataclass(frozen=True)
class Task:
    """Models x arms x sparsities x seeds, and the table of them."""

    name: str
    models: tuple[str, ...]
    first: tuple[str, ...]
    """Arms that others read."""
    sparsities: Callable[[str, str], tuple[float, ...]]
    """(model, arm) -> those that it is run at; none where the arm is not for the model."""
    arms: tuple[str, ...]
    recipe: Callable[[TaskCell, str, Path], Tree]
    """(cell, root of the data, folder of the runs) -> the recipe."""
    table: Callable[[Callable[[TaskCell], Tree | None], int], str]
    """(the report of a cell with its `run`, seeds) -> the rows."""

    def cells(self, seeds: int) -> Iterator[TaskCell]:
        """All runs; those that others read come first."""
        for arm in sorted(self.arms, key=lambda arm: arm not in self.first):
            for model in self.models:
                for sparsity in self.sparsities(model, arm):
                    for seed in range(seeds):
                        yield TaskCell(self.name, model, arm, sparsity, seed)


def mean_and_deviation(values: list[float]) -> str:
    """In percent of shares."""
    if not values:
        return "not run"
    if len(values) == 1:
        return f"{100 * values[0]:.2f} (n=1)"
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"


# ---- one cut of a finished network, without training

ONE_SHOT: dict[str, tuple[str, Tree]] = {
    "random_subnetwork": ("random, uniform", {"name": "random_subnetwork", "distribution": "uniform"}),
    "magnitude_uniform": ("size, as much of each layer", {"name": "magnitude", "distribution": "uniform", **HARD}),
    "magnitude_global": ("size, one threshold", {"name": "magnitude", "distribution": "global", **HARD}),
    "isomorphic": ("size, one threshold for each kind of layer", {"name": "magnitude", "distribution": "isomorphic", **HARD}),
    "lamp": ("LAMP scores", {"name": "lamp", **HARD}),
    "taylor": ("first order, 512 images", {"name": "taylor", "samples": 512}),
    "wanda": ("weights times the norm of inputs, 512 images", {"name": "wanda", "samples": 512}),
    "sparse_gpt": ("second order, kept weights corrected, 512 images", {"name": "sparse_gpt", "samples": 512}),
}  # fmt: skip
CUTS = (0.3, 0.5, 0.7)
DIGITS_MODELS: dict[str, Tree] = {
    "vit": {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 64, "heads": 4},
    "resnet": {"name": "resnet", "depth": 8, "stages": [16, 32, 64]},
}


def one_shot_recipe(cell: TaskCell, root: str, out: Path) -> Tree:
    """A dense run, or a cut of the dense run of its seed."""
    dense = TaskCell(cell.task, cell.model, "dense", 0.0, cell.seed).name
    length, changes = "20ep", {"strategies": []}
    if cell.arm != "dense":
        length = "0st"
        changes = {"strategies": [{**ONE_SHOT[cell.arm][1], "sparsity": cell.sparsity}]}
    init = None if cell.arm == "dense" else str(out / dense / "latest")
    return {
        "name": cell.name,
        "seed": cell.seed,
        "data": {"name": "digits", "batch_size": 64},
        "model": {**DIGITS_MODELS[cell.model], "init": init},
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05},
        "phases": [{"name": "only", "length": length, "lr_schedule": "cosine"}],
        "evaluate": {"every": "100%"},
        "checkpoint": {"every": "100%"},
        **changes,
    }


def one_shot_table(report: Callable[[TaskCell], Tree | None], seeds: int) -> str:
    """Accuracy after the cut, by method and sparsity."""
    lines = []
    for model in DIGITS_MODELS:
        lines += [
            f"| `{model}` | what decides | " + " | ".join(f"{s:g}" for s in CUTS) + " |",
            "|---|---|" + "---|" * len(CUTS),
            f"| `dense` | no pruning | {_accuracies('one_shot', model, 'dense', 0.0, report, seeds)} |"
            + " |" * (len(CUTS) - 1),
        ]
        for arm, (what, _) in ONE_SHOT.items():
            row = [_accuracies("one_shot", model, arm, s, report, seeds) for s in CUTS]
            lines.append(f"| `{arm}` | {what} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _accuracies(
    task: str, model: str, arm: str, s: float, report: Callable[[TaskCell], Tree | None], seeds: int
) -> str:
    found = [report(TaskCell(task, model, arm, s, seed)) for seed in range(seeds)]
    return mean_and_deviation([one["accuracy"]["test_top1"] for one in found if one])


# ---- CIFAR images at CPU size

CIFAR_MODELS: dict[str, Tree] = {
    "resnet": {"name": "resnet", "depth": 8, "stages": [16, 32, 64]},
    "vit": {
        "name": "vit",
        "patch_size": 4,
        "depth": 4,
        "embed_dim": 96,
        "heads": 4,
        "mlp_ratio": 4,
    },
}
SMALL: dict[str, Tree] = {
    "resnet": {"widths": [8, 16, 32]},
    "vit": {"head_counts": [2] * 4, "hidden": [192] * 4},
}
"""What a structured arm leaves, from the start."""
UNSTRUCTURED, STRUCTURED = 0.9, 0.5
RAMP: Tree = {"schedule": {"name": "cubic", "stop": "75%"}, "cadence": {"every": "2%"}}
MOVES: Tree = {"cadence": {"every": "2%", "stop": "75%"}}
OF_WEIGHTS: dict[str, Tree] = {
    "random_subnetwork": {"name": "random_subnetwork"},
    "gradual": {"name": "magnitude", "mode": "hard", "regrow": False, **RAMP},
    "gmp_star": {"name": "magnitude", "mode": "hard", "regrow": False, "cadence": {"every": "2%"},
                 "schedule": {"name": "cubic", "initial": 0.72, "stop": "60%"}},
    "persistent": {"name": "magnitude", **RAMP},
    "isomorphic": {"name": "magnitude", "distribution": "isomorphic", **RAMP},
    "lamp": {"name": "lamp", **RAMP},
    "snip": {"name": "snip"},
    "grasp": {"name": "grasp"},
    "synflow": {"name": "synflow"},
    "set": {"name": "set", **MOVES},
    "rigl": {"name": "rigl", **MOVES},
    "srigl": {"name": "srigl", **MOVES},
    "granet": {"name": "granet", "start_sparsity": 0.5, **MOVES},
    "top_kast": {"name": "top_kast", "backward_sparsity": 0.8, "cadence": {"every": "2%"}},
    "ac_dc": {"name": "ac_dc"},
    "movement": {"name": "movement"},
    "one_shot": {"name": "magnitude", **HARD},
    "taylor": {"name": "taylor"},
    "wanda": {"name": "wanda"},
    "sparse_gpt": {"name": "sparse_gpt"},
}  # fmt: skip
"""At `UNSTRUCTURED`; str_threshold's sparsity emerges, and n:m has one of its own."""
FINE_TUNED = ("one_shot", "taylor", "wanda", "sparse_gpt")
"""60 % dense, a cut, fine-tuning; as the structured arms."""
OF_UNITS: dict[str, Tree] = {
    "filter_magnitude": {"name": "filter_magnitude"},
    "fpgm": {"name": "fpgm"},
    "taylor_units": {"name": "taylor", "structure": "channel", "distribution": "uniform"},
    "wanda_units": {"name": "wanda", "structure": "channel", "distribution": "uniform"},
    "magnitude_units": {"name": "magnitude", "structure": "channel", "distribution": "uniform", **HARD},
}  # fmt: skip
"""At `STRUCTURED`, compacted at the end; of a ViT the hidden units, and half of the heads by
magnitude."""
IMAGE_SIZE = 16
INSIDE = {"resnet": "layer*.conv1.weight", "vit": "*.mlp.fc1.weight"}
NOT_FOR_VIT = ("synflow",)


def cifar_sparsities(model: str, arm: str) -> tuple[float, ...]:
    """One for each arm."""
    if arm in ("dense", "small_dense"):
        return (0.0,)
    if model == "vit" and arm in NOT_FOR_VIT:
        return ()
    return (UNSTRUCTURED,) if arm in OF_WEIGHTS else (STRUCTURED,)


def cifar_recipe(cell: TaskCell, root: str, out: Path) -> Tree:
    """Ten epochs of 5,000 images, read from folders of images."""
    model = dict(CIFAR_MODELS[cell.model])
    strategies: list[Tree] = []
    if cell.arm == "small_dense":
        model |= SMALL[cell.model]
    elif cell.arm in OF_WEIGHTS:
        strategies = [{**OF_WEIGHTS[cell.arm], "sparsity": cell.sparsity}]
    elif cell.arm in OF_UNITS:
        scope = {"include": [INSIDE[cell.model]]}
        strategies = [{**OF_UNITS[cell.arm], "sparsity": cell.sparsity, "scope": scope}]
        if cell.model == "vit":
            heads = {"name": "magnitude", "structure": "head", "distribution": "uniform"}
            heads |= {"sparsity": cell.sparsity, "scope": {"include": ["*.attn.qkv.weight"]}}
            strategies.append({**heads, **HARD})
    phases = [("train", 390)]
    if cell.arm in FINE_TUNED or cell.arm in OF_UNITS:
        phases = [("dense", 234), ("tune", 156)]
        strategies = [{**one, "during": ["tune"]} for one in strategies]
    return {
        "name": cell.name,
        "seed": cell.seed,
        "data": {"name": "image_folder", "root": root, "batch_size": 128, "augment": ["flip", "crop"],
                 "image_size": IMAGE_SIZE, "train_limit": 5000, "test_limit": 2000},
        "model": model,
        "strategies": strategies,
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0},
        "phases": [
            {"name": name, "length": f"{steps}st", "lr_schedule": {"name": "cosine", "warmup": "5%"}}
            for name, steps in phases
        ],
        "finish": "compact" if cell.arm in OF_UNITS else "zeros",
        "evaluate": {"every": "100%"},
        "checkpoint": {"every": "100%"},
    }  # fmt: skip


def cifar_table(report: Callable[[TaskCell], Tree | None], seeds: int) -> str:
    """Accuracy, and what it costs as counted and as measured."""
    lines = []
    for model in CIFAR_MODELS:
        lines += [
            f"| `{model}` | sparsity | accuracy, % | parameters stored | multiply-adds executed | "
            "time of 1 image / dense | of 8 / dense |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm in CIFAR.arms:
            for s in cifar_sparsities(model, arm):
                cells = [TaskCell("cifar", model, arm, s, seed) for seed in range(seeds)]
                lines.append(_cifar_row(cells[0], [one for one in map(report, cells) if one]))
        lines.append("")
    return "\n".join(lines).rstrip()


def _cifar_row(cell: TaskCell, found: list[Tree]) -> str:
    head = f"| `{cell.arm}` | {cell.sparsity:g} |"
    accuracy = mean_and_deviation([one["accuracy"]["test_top1"] for one in found])
    if not found:
        return f"{head} {accuracy} | | | | |"
    timed = [one["latency"].get("torch", {}) for one in found]
    if cell.arm == "small_dense" or cell.arm in OF_UNITS:
        timed = [beside_dense(cell.model, found[0]["run"])]
    times = [_middle([one[batch]["ratio"] for one in timed if batch in one]) for batch in "18"]
    counts = [found[0]["parameters"]["stored"], found[0]["macs"]["executed"]]
    return f"{head} {accuracy} | {counts[0]:,} | {counts[1]:,} | {' | '.join(times)} |"


def _middle(ratios: list[float]) -> str:
    """A machine that is busy may have left the time out."""
    return f"{statistics.median(ratios):.2f}" if ratios else "not measured"


@cache
def beside_dense(model: str, run: Path) -> Tree:
    """The time of what a run left, in turn with the dense network, by batch: now, on one thread.

    A run times its own as well, but knows no dense network beside a small one, and runs beside
    others, so that those of one size would differ.
    """
    from prunekit import load_model
    from prunekit.models import build_model
    from prunekit.models.latency import by_batch, measure_latency
    from prunekit.registry import MODELS
    from prunekit.registry.configs import DataSpec

    torch.set_num_threads(1)
    spec = DataSpec(channels=3, height=IMAGE_SIZE, width=IMAGE_SIZE, classes=10)
    left = load_model(run / "model.safetensors").eval()
    dense = build_model(MODELS.parse(CIFAR_MODELS[model]), spec).eval()
    return by_batch(measure_latency(left, dense, spec.input_shape, seconds=4.0))


ONE_SHOT_TASK = Task(
    "one_shot", tuple(DIGITS_MODELS), ("dense",),
    lambda model, arm: (0.0,) if arm == "dense" else CUTS,
    ("dense", *ONE_SHOT), one_shot_recipe, one_shot_table,
)  # fmt: skip
CIFAR = Task(
    "cifar", tuple(CIFAR_MODELS), (), cifar_sparsities,
    ("dense", "small_dense", *OF_UNITS, *OF_WEIGHTS), cifar_recipe, cifar_table,
)  # fmt: skip
TASKS = {task.name: task for task in (ONE_SHOT_TASK, CIFAR)}
