"""A training step and an evaluation under fixed masks, against dense."""

from __future__ import annotations

from functools import partial

import torch

from prunekit.bench.models import PEER, Training, by_peer, dense, masked
from prunekit.bench.rounds import AGAIN, in_turn, timed
from prunekit.bench.rows import Section, Timed
from prunekit.bench.sizes import Size

EVAL_PASSES = 10


def _trainings(size: Size) -> dict[str, Training]:
    """Dense first; each has a model and an optimizer of its own."""
    return {
        "dense": dense(size),
        AGAIN: dense(size),
        "hard": masked(size, "hard"),
        "ste": masked(size, "ste"),
        PEER: by_peer(size),
    }


def step(size: Size) -> Section:
    """Forward, backward and optimizer step under a fixed mask of 90 %."""
    x, y = size.images(size.batch)
    trainings = _trainings(size)
    variants = {name: timed(partial(t.step, x, y)) for name, t in trainings.items()}
    measured = in_turn(variants, 2 * size.least, size.most)
    return Section(
        name="step",
        title=f"training step of a ViT {size.width}x{size.depth}, 32 px, patch 4, "
        f"batch {size.batch}, fused AdamW",
        baseline="the dense step",
        rows=Timed(measured, size.judged).rows({"hard": 1.02, "ste": 1.025}),
        rounds=measured.rounds,
        null=measured.null.error,
    )


def evaluation(size: Size) -> Section:
    """The forward pass of one image in evaluation, where masks weigh most."""
    x, y = size.images(1)
    trainings = _trainings(size)

    def forward(training: Training) -> None:
        with torch.inference_mode():
            training.model(x)

    for training in trainings.values():
        training.step(x, y)
        training.model.eval()
    variants = {n: timed(partial(forward, t), EVAL_PASSES) for n, t in trainings.items()}
    measured = in_turn(variants, 2 * size.least, 2 * size.most)
    return Section(
        name="eval",
        title=f"evaluation of one image by a ViT {size.width}x{size.depth}, 32 px, patch 4",
        baseline="the dense forward pass",
        rows=Timed(measured, size.judged).rows({"hard": 1.02, "ste": 1.02}),
        rounds=measured.rounds,
        null=measured.null.error,
    )
