"""The stages of `gpu_check.py`: each a function of its notes and of what all are told."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import gpu_runs
import torch
from gpu_check import Notes, Settings
from gpu_waits import Steps, allowed, watched

from prunekit.cli.bench import ON_DEVICES
from prunekit.foundation.devices import choose_device
from prunekit.foundation.timing import call_seconds
from prunekit.recipe.load import load_recipe, recipe_from
from prunekit.recipe.schema import Recipe
from prunekit.runs.directory import open_run
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.machine import describe
from prunekit.train.observer import Observer
from prunekit.train.self_test import self_test
from prunekit.train.trainer import Trainer

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


# ---- waits


def waits(notes: Notes, settings: Settings) -> None:
    """The recipes of the rehearsal from begin to report, and what the host waited for in each step.

    First CUDA only warns of a wait, so that each is counted and the run goes on; then the steps that had none are taken
    again where it raises.
    """
    from tests.rehearsal.recipes import cases
    from tests.rehearsal.rehearsing import placed

    device, found = choose_device(settings.device), {}
    all_cases = cases()[:1] if settings.rehearse else cases()
    notes.put(cases=len(all_cases))
    for case in all_cases:
        if settings.left < LAST_CASE:
            break
        tree = placed(case.tree) | {"device": str(device)}
        found[case.name] = _rehearsed(tree, device)
        bad = [name for name, one in found.items() if one["failed"] or one["over"]]
        notes.put(ran=len(found), bad=bad, found=found)


LAST_CASE = 8
"""Seconds that one case may take."""


def _rehearsed(tree: dict[str, Any], device: torch.device) -> dict[str, Any]:
    seen, failed = _steps_of(tree, device)
    over = {
        step.number: step.lines
        for step in seen.steps
        if not step.updates and sum(step.lines.values()) > allowed(tree)
    }
    told = {
        "steps": len(seen.steps),
        "plain": [sum(s.lines.values()) for s in seen.steps if not s.updates],
        "updates": [sum(s.lines.values()) for s in seen.steps if s.updates],
        "over": over,
        "failed": failed,
    }
    strict = frozenset(s.number for s in seen.steps if not s.updates and not s.lines)
    if strict and not failed and device.type == "cuda":  # it alone has such a mode
        told["failed"] = _steps_of(tree, device, strict)[1]
    return told


def _steps_of(
    tree: dict[str, Any], device: torch.device, strict: frozenset[int] = frozenset()
) -> tuple[Steps, str]:
    """What was seen, and why the run failed; nothing where it did not."""
    seen = Steps(device, strict)
    with tempfile.TemporaryDirectory() as folder, watched(seen):
        try:
            run_recipe(recipe_from(tree), out=Path(folder))
        except Exception as error:  # whatever CUDA says is what this looks for
            return seen, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return seen, ""


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


# ---- updates


def update(notes: Notes, settings: Settings) -> None:
    """One mask update of ViT-B after the other, each decided anew, and what the host waits for in it."""
    device = choose_device(settings.device)
    with gpu_runs.code(settings) as given:
        small = (
            ["model.depth=1", "model.embed_dim=64", "model.heads=2", "data.image_size=32"]
            if settings.rehearse
            else []
        )
        vit_b = [
            "model.depth=12",
            "model.embed_dim=768",
            "model.heads=12",
            "strategies.0.cadence.every=1st",
        ]
        vit_b += ["compressors=[]", "phases.0.length=40st", "strategies.0.schedule=constant"]
        limits = [one for one in gpu_runs.SMALL if one.startswith("data.")] or []
        words = [
            f"device={settings.device}",
            *given,
            *vit_b,
            *limits,
            "data.image_size=224",
            *small,
        ]
        recipe = load_recipe("vit_cifar_tome", words)
        with _begun(recipe, device) as trainer:
            trainer.advance()
            took, waited = [], []
            for _ in range(3 if settings.rehearse else 12):
                seconds, lines = _timed_update(trainer, device)
                took.append(1e3 * seconds)
                waited.append(lines)
                notes.put(milliseconds=took, waits=[sum(one.values()) for one in waited])
            told = call_seconds(trainer.observer.saw_update, device)
            weights = sum(m.numel() for m in trainer.engine.masks().values())
            notes.put(
                weights=weights, median_ms=median(took[1:]), logging_ms=1e3 * told, lines=waited[-1]
            )


def _timed_update(trainer: Trainer, device: torch.device) -> tuple[float, dict[str, int]]:
    trainer.engine.count_step()
    seen = Steps(device)
    seconds = call_seconds(lambda: seen.look(trainer.engine.update_masks), device)
    return seconds, seen.last


@contextmanager
def _begun(recipe: Recipe, device: torch.device) -> Iterator[Trainer]:
    """A trainer that can take its first step; it leaves nothing behind."""
    run = build(recipe, ProcessGroup(0, 1, device))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(run, Path(folder), Observer(run, Path(folder)))
        try:
            trainer.begin()
            yield trainer
        finally:
            trainer.observer.log_to.close()


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
