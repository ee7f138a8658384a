"""Small real runs for the tests: the shipped digits, seconds each."""

import json
import shutil
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import settings
from torch import Tensor

from prunekit.recipe.load import recipe_from
from prunekit.recipe.schema import Recipe
from prunekit.runs.directory import open_run
from prunekit.train.launch import run_recipe

with_steps = settings(max_examples=15 if settings().max_examples >= 40 else 10)
"""For properties whose every example takes steps or passes through a model."""

MAGNITUDE = {"name": "magnitude", "sparsity": 0.8, "cadence": {"every": "3st"}}


def recipe(**changes: Any) -> Recipe:
    """24 steps of an MLP on 256 digits, pruned by magnitude; `changes` replace top-level keys."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100},
        "model": {"name": "mlp", "hidden": [16]},
        "strategies": [MAGNITUDE],
        "optimizer": {"name": "adamw", "lr": 5e-3, "clip_norm": 1.0},
        "phases": [{"name": "train", "length": "6ep", "lr_schedule": {"name": "cosine"}}],
        "evaluate": {"every": "2ep"},
        "checkpoint": {"every": "5st"},
        "logging": {"every": "2st"},
    }
    return recipe_from(tree | changes)


def run(out: Path, **changes: Any) -> Path:
    return run_recipe(recipe(**changes), out=out)


def by_operators() -> AbstractContextManager[Any]:
    """Within, `torch.compile` traces as ever and runs its graphs by torch's own operators: no
    compiler makes kernels, which takes longer than a short training."""
    torch.compiler.reset()
    return patch("torch.compile", partial(torch.compile, backend="aot_eager"))


def rewound(run_dir: Path, step: int, to: Path) -> Path:
    """A copy of a run as a kill would have left it after the checkpoint of `step`."""
    shutil.copytree(run_dir, to)
    for path in (to / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    for name in ("report.json", "masks.safetensors", "model.safetensors"):
        (to / name).unlink(missing_ok=True)
    status = {"status": "running", "exit_code": 0, "message": "", "step": step}
    (to / "status.json").write_text(json.dumps(status))
    return to


def result(run_dir: Path) -> dict[str, Tensor]:
    """Final weights and masks, by name."""
    opened = open_run(run_dir)
    masks = {f"mask {name}": mask for name, mask in opened.masks().items()}
    return opened.final_weights() | masks


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, without speeds."""
    lines = open_run(run_dir).metrics()
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in lines]
