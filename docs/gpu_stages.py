"""The stages of `gpu_check.py`: each a function of its notes and of what all are told."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import gpu_runs
import torch
from gpu_check import Notes, Settings
from gpu_waiting import update as update, waits as waits

from prunekit.cli.bench import ON_DEVICES
from prunekit.foundation.devices import choose_device
from prunekit.foundation.timing import call_seconds
from prunekit.recipe.load import load_recipe, recipe_from
from prunekit.recipe.schema import Recipe
from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.machine import describe
from prunekit.train.self_test import self_test

TABLE_1 = [
    "model.embed_dim=384",
    "model.heads=3",
    "optimizer.lr=5.0e-3",
    "strategies.0.sparsity=0.85",
]
EPOCHS = 40
"""Of a cell of table 1."""


def doctor(notes: Notes, settings: Settings) -> None:
    """What the machine is."""
    device = choose_device(settings.device)
    notes.put(machine=describe(device, compiling=not settings.rehearse))
    test = self_test(device)
    notes.put(self_test=asdict(test) | {"passed": test.passed})


# ---- training


def train(notes: Notes, settings: Settings) -> None:
    """`vit_cifar_tome`, compiled: a step beside a loop by hand, then as many epochs as there is time."""
    device = choose_device(settings.device)
    with gpu_runs.code(settings) as given:
        recipe = load_recipe("vit_cifar_tome", _overrides(settings, given))
        notes.put(
            data="made" if settings.data is None else "CIFAR-10",
            recipe=recipe.model_dump(mode="json"),
        )
        notes.put(peak_tflops=gpu_runs.peak_tflops(device, 512 if settings.rehearse else 8192))
        speeds = gpu_runs.speeds(recipe, device, rounds=2 if settings.rehearse else 6)
        notes.put(**speeds)
        share = {
            f"{name}_share_of_peak": speeds[f"{name}_tflops"] / notes.found["peak_tflops"]
            for name in ("own", "hand")
        }
        notes.put(**share)
        epoch = speeds["epoch_seconds"]
        epochs = max(1, int((settings.left - 15) / (1.15 * epoch))) if not settings.rehearse else 1
        notes.put(epochs=epochs)
        notes.put(run=_ran(_with_epochs(recipe, epochs), settings))


def _overrides(settings: Settings, data: Sequence[str]) -> list[str]:
    found = ["compile=true", f"device={settings.device}", *data]
    return [*found, *gpu_runs.SMALL] if settings.rehearse else found


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    tree = recipe.model_dump(mode="json")
    tree["phases"][0]["length"] = f"{epochs}ep"
    return recipe_from(tree)


def _ran(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    done = open_run(run_recipe(recipe, out=settings.out / "runs"))
    report = done.report()
    speed = [
        line["train/images_per_second"]
        for line in done.metrics()
        if "train/images_per_second" in line
    ]
    return {
        "run": f"{done.path.parent.name}/{done.path.name}",
        "test_top1": report["accuracy"]["test_top1"],
        "images_per_second": median(speed) if speed else None,
        "train": report["train"],
        "sparsity": report["sparsity"]["scope"],
        "tokens": report["tokens"],
        "warnings": report["warnings"],
    }


# ---- benchmarks


def benches(notes: Notes, settings: Settings) -> None:
    """Of `prunekit bench all` what is measured on a device, a subject after the other; the rest needs none."""
    subjects = {"train": ON_DEVICES["train"]} if settings.rehearse else ON_DEVICES
    notes.put(on=settings.device, subjects=list(subjects))
    for subject, parts in subjects.items():
        words = ["bench", subject, "--device", settings.device, "--json"]
        words += ["--quick", "--only", parts[0]] if settings.rehearse else []
        try:
            done = _prunekit(words, max(1.0, settings.left))
        except subprocess.TimeoutExpired:
            notes.put(cut_off_in=subject)
            return
        if done.returncode:
            notes.put(**{subject: {"error": done.stderr[-500:]}})
            continue
        found = json.loads(done.stdout)
        verdicts = list(_verdicts(found))
        notes.put(
            **{
                subject: found,
                f"{subject}_met": verdicts.count("met"),
                f"{subject}_judged": len(verdicts),
            }
        )


def _prunekit(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prunekit", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def _verdicts(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if tree.get("verdict") in ("met", "not met"):
            yield tree["verdict"]
        for value in tree.values():
            yield from _verdicts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _verdicts(value)


# ---- resuming


def resume(notes: Notes, settings: Settings) -> None:
    """A run, and the same killed at half and resumed: on the device, and on the CPU."""
    from tests.support.training import result, rewound

    device = choose_device(settings.device)
    tree = gpu_runs.RESUMED | {"device": str(device)}
    with tempfile.TemporaryDirectory() as folder:
        whole = run_recipe(recipe_from(tree), out=Path(folder) / "whole")
        expected = result(whole)
        for place in dict.fromkeys((str(device), "cpu")):
            left = rewound(whole, gpu_runs.HALF, Path(folder) / f"on {place.replace(':', ' ')}")
            found = result(resume_run(left, device=place))
            notes.put(
                **{
                    f"resumed on {'cpu' if place == 'cpu' else 'the device'}": _apart(
                        expected, found
                    )
                }
            )


def _apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    masks = [name for name in a if name.startswith("mask ")]
    weights = [name for name in a if name not in masks and a[name].is_floating_point()]
    return {
        "mask_entries": sum(a[name].numel() for name in masks),
        "mask_entries_apart": sum(int((a[name] != b[name]).sum()) for name in masks),
        "largest_difference_of_weights": max(float((a[n] - b[n]).abs().max()) for n in weights),
    }


# ---- the table of the paper


def paper(notes: Notes, settings: Settings) -> None:
    """Two cells of table 1 by turns, ratio 0 and 0.4, seed after seed, while there is time."""
    done = settings.out / "train.json"
    before = json.loads(done.read_text("utf-8")) if done.is_file() else {}
    epoch = 1.3 * before.get(
        "epoch_seconds", 10.0
    )  # ratio 0 has more tokens, and each run is evaluated
    epochs = (
        1 if settings.rehearse else max(1, min(EPOCHS, int((settings.left - 30) / (2 * epoch))))
    )
    notes.put(
        epochs=epochs, of=EPOCHS, data="made" if settings.data is None else "CIFAR-10", cells=[]
    )
    cells: list[dict[str, Any]] = []
    with gpu_runs.code(settings) as given:
        for seed in range(1 if settings.rehearse else 5):
            for ratio, words in ((0.0, ["compressors=[]"]), (0.4, ["compressors.0.ratio=0.4"])):
                if cells and settings.left < 1.1 * max(cell["seconds"] for cell in cells):
                    return
                cells.append(
                    _cell(settings, [*_overrides(settings, given), *words], (seed, ratio, epochs))
                )
                notes.put(cells=cells)


def _cell(
    settings: Settings, words: Sequence[str], which: tuple[int, float, int]
) -> dict[str, Any]:
    seed, ratio, epochs = which
    sized = [] if settings.rehearse else TABLE_1
    recipe = load_recipe(
        "vit_cifar_tome", [*sized, *words, f"seed={seed}", f"phases.0.length={epochs}ep"]
    )
    found: dict[str, Any] = {"seed": seed, "ratio": ratio}

    def run() -> None:
        found.update(_ran(recipe, settings))

    timed: Callable[[], object] = run
    return found | {"seconds": call_seconds(timed, choose_device(settings.device))}
