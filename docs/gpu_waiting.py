"""Stages of `gpu_check.py` that ask what the host waits for: in whole runs, and in updates of masks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import gpu_runs
import torch
from gpu_check import Notes, Settings
from gpu_waits import Steps, watched

from prunekit.foundation.devices import choose_device
from prunekit.foundation.timing import call_seconds
from prunekit.recipe.load import load_recipe, recipe_from
from prunekit.recipe.schema import Recipe
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import run_recipe
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer


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
    from tests.rehearsal.waiting import too_often

    seen, failed = _steps_of(tree, device)
    over = {
        step.number: step.lines
        for step in seen.steps
        if not step.updates
        and too_often(tree, step.number, sum(step.lines.values()), updates=False)
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
        limits = [one for one in gpu_runs.SMALL if one.startswith("data.")]
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
