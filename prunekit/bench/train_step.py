"""`prunekit bench train`: the trainer's whole step over a loop written by hand."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prunekit.bench.measure import (
    AGAIN,
    Section,
    Timed,
    Variant,
    device_measured,
    in_turn,
    one_thread,
    timed,
)
from prunekit.foundation.unfinished import scratch
from prunekit.recipe.load import recipe_from
from prunekit.train.build import Run, build
from prunekit.train.distributed import join
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer

GOAL = 1.01
LR, CLIP = 1e-3, 1.0
STEPS = 100_000
"""More than any measurement takes."""


def bench_train(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure on one thread of the CPU; arguments as for masks."""
    assert set(only) <= {"step"}
    quiet = redirect_stdout(io.StringIO())  # its progress is no part of the document
    with one_thread(), ExitStack() as stack, quiet:
        variants = {
            "by hand": _by_hand(_run(quick)),
            AGAIN: _by_hand(_run(quick)),
            "trainer": _by_trainer(_run(quick), stack),
            "trainer, pruning": _by_trainer(_run(quick, pruned=True), stack),
        }
        measured = in_turn(variants, *((2, 2) if quick else (25, 100)))
    model = "ViT 32x1" if quick else "ViT 192x4"
    yield Section(
        name="step",
        title=f"a training step of the {model} on digits, 17 tokens, batch 64, fused AdamW",
        baseline="forward, backward, clipping, AdamW and a cosine in a loop written by hand",
        rows=Timed(measured, not quick).rows({"trainer": GOAL}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            "both draw the same batches from the set in memory; the trainer also tallies loss and "
            "hits, watches for what is not finite, and logs each 1 % of the steps",
            "pruning: magnitude in `ste`, a fixed mask of 90 %",
        ],
    )


def _run(quick: bool, pruned: bool = False) -> Run:
    width, depth = (32, 1) if quick else (192, 4)
    fixed = {"sparsity": 0.9, "mode": "ste", "schedule": "constant", "cadence": {"every": "once"}}
    tree: dict[str, Any] = {
        "name": "bench",
        "threads": 1,
        "data": {"name": "digits", "batch_size": 64},
        "model": {
            "name": "vit",
            "patch_size": 2,
            "embed_dim": width,
            "depth": depth,
            "heads": width // 32,
        },
        "strategies": [{"name": "magnitude", **fixed}] if pruned else [],
        "optimizer": {"name": "adamw", "lr": LR, "clip_norm": CLIP},
        "phases": [{"name": "train", "length": f"{STEPS}st", "lr_schedule": "cosine"}],
        "loggers": [],
    }
    return build(recipe_from(tree), join(str(device_measured())))


def _by_hand(run: Run) -> Variant:
    model, data = run.model.train(), run.data
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    t = 0

    def step() -> None:
        """One step on the next batch, without prunekit."""
        nonlocal t
        x, y = data.train_batch(t)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(x), y))
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        t += 1

    return timed(step)


def _by_trainer(run: Run, stack: ExitStack) -> Variant:
    folder = stack.enter_context(scratch())
    observer = Observer(run, folder)
    stack.callback(observer.log_to.close)
    trainer = Trainer(run, folder, observer)
    trainer.begin()
    observer.begin(0)

    def step() -> None:
        """As a step of `Trainer.fit`, where nothing is evaluated or saved."""
        trainer.advance()
        observer.saw_step()
        observer.saw_update()
        observer.log_details()
        if observer.due(trainer.engine.step):
            observer.log(trainer.images, LR)

    return timed(step)
