"""One case in the process with the device: run there, run on the CPU, killed and resumed."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from prunekit.runs.directory import open_run
from tests.rehearsal.device import NAME
from tests.rehearsal.recipes import BASE, FOLDER, MATCHED, PUBLISHED, SOURCE, STOP, Case, Tree
from tests.rehearsal.training import (
    StepWaits,
    Tensors,
    fitted,
    resume_on,
    run_on,
    watched_steps,
)
from tests.rehearsal.waiting import too_often
from tests.support.data_sets import image_folder
from tests.support.published_sets import cifar_files, mnist_files
from tests.support.training import curve, rewound

QUIET: Tree = {"logging": {"every": "100%"}, "checkpoint": {"every": "100%"}, "loggers": []}
"""Of a run whose logs and checkpoints are not looked at."""


def rehearse(case: Case) -> list[str]:
    """What went otherwise than it must, in words; empty where nothing did."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what so short a run cannot be good for
        out = Path(folder)
        tree = placed(case.tree)
        with fitted(finish=True) as ours, watched_steps() as steps:
            done = run_on(NAME, tree, out / "device")
        found = [f"not {what}" for what in finished(done)] + waited(steps, tree)
        if case.exact:
            with fitted(finish=False) as theirs:
                run_on("cpu", tree | QUIET, out / "cpu")
            found += differences(masks_of(ours), masks_of(theirs), "those of the CPU")
        with fitted(finish=False) as resumed:
            again = resume_on(NAME, rewound(done, STOP, out / "killed"))
        found += differences(ours, resumed, "those of a run that was killed and resumed")
        if curve(again) != curve(done)[: len(curve(again))]:
            found.append("resumed, it logs other numbers")
        return found


def trained(case: Case) -> list[str]:
    """What went otherwise than it must in a run there alone, in words."""
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = run_on(NAME, placed(case.tree) | QUIET, Path(out))
        return [f"not {what}" for what in finished(done)]


def waited(steps: Sequence[StepWaits], tree: Tree) -> list[str]:
    """A sentence for each step in which the host waited more often than it may."""
    return [
        f"step {one.number}: {one.step}"
        for one in steps
        if too_often(tree, one.number, len(one.step), updates=one.updates)
    ]


def masks_of(tensors: Tensors) -> Tensors:
    """The masks alone."""
    return {name: one for name, one in tensors.items() if name.startswith("mask ")}


def finished(run_dir: Path) -> list[str]:
    """What a finished run has and this one has not."""
    run = open_run(run_dir)
    wanted = {"done": run.status()["status"] == "done", "on the device": _device(run_dir) == NAME}
    wanted |= {"reported": (run_dir / "report.json").is_file()}
    return [what for what, is_so in wanted.items() if not is_so]


def _device(run_dir: Path) -> str:
    return str(open_run(run_dir).manifest()["environment"]["device"])


def differences(ours: Tensors, others: Tensors, whose: str) -> list[str]:
    """A sentence for each tensor that is another."""
    if ours.keys() != others.keys():
        return [f"the names are not {whose}"]
    return [
        f"{name}: {int((one != others[name]).sum())} of {one.numel()} entries are not {whose}"
        for name, one in ours.items()
        if not torch.equal(one, others[name])
    ]


def placed(tree: Tree) -> Tree:
    """A tree with the paths that it stands for."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            found = {key: put(one) for key, one in value.items()}
            at = found.get("root") == PUBLISHED
            return found | {"root": published(found["name"])} if at else found
        if isinstance(value, list):
            return [put(one) for one in value]
        return {SOURCE: source, FOLDER: images}[value]() if value in (SOURCE, FOLDER) else value

    made: Tree = put(tree)
    return made


@cache
def _kept() -> Path:
    """A folder for as long as the process lives."""
    os.environ["PRUNEKIT_CACHE"] = str(Path(_folder.name) / "cache")
    return Path(_folder.name)


_folder = tempfile.TemporaryDirectory(prefix="rehearsal-")


@cache
def source() -> str:
    """A run with masks of each matrix of the model, for those that begin with one."""
    strategy = {"name": "magnitude", "mode": "hard", "sparsity": MATCHED, "schedule": "constant"}
    tree = BASE | {"strategies": [strategy], "phases": [{"name": "a", "length": "2st"}]}
    tree |= {"optimizer": {"name": "adamw", "lr": 1e-3}}
    return str(run_on("cpu", tree, _kept() / "source"))


KNOWN = {"cifar10": ("CIFAR10", "labels", 10), "cifar100": ("CIFAR100", "fine_labels", 100)}
"""The class of torchvision, its key for labels, and how many classes there are."""
IMAGES = 128


@cache
def published(name: str) -> str:
    """The files of a known set with images of noise, whose checksums are then right here."""
    root = _kept() / name
    if name not in KNOWN:
        mnist_files(root, train=IMAGES, tests=IMAGES)
        return str(root)
    kind, key, classes = KNOWN[name]
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
    part = {"data": pixels, key: [number % classes for number in range(IMAGES)]}
    source = getattr(datasets, kind)
    names = [f"class {number}" for number in range(classes)]
    for attribute, value in cifar_files(root, source, part, part, names).items():
        setattr(source, attribute, value)  # for as long as this process lives, which is ours
    return str(root)


@cache
def images() -> str:
    """Two classes of images in files."""
    return str(image_folder(_kept() / "images", ["cat", "dog"], size=16))
