"""A whole update of the masks against `torch.nn.utils.prune.global_unstructured`."""

from __future__ import annotations

import torch

from prunekit.bench.models import PEER, STEPS, Training, dense, masked, prune_by_peer, scope_size
from prunekit.bench.rounds import AGAIN, Variant, in_turn, timed
from prunekit.bench.rows import Section, Timed
from prunekit.bench.sizes import Size

GOAL = 0.05
EACH = {"cadence": {"every": "1st"}}
RISING = {**EACH, "schedule": "linear"}
SLOPE = 10
"""Steps that the rising target is moved on by, so that no threshold is near the last."""


def update(size: Size) -> Section:
    """Score, select, and write masks and weights: all that happens between two steps."""
    origin = dense(size).model
    weights = scope_size(origin)
    fixed, hard = masked(size, "ste", **EACH), masked(size, "hard", **EACH)
    rising = masked(size, "ste", **RISING)
    assert rising.pruner is not None
    rising.pruner.step = STEPS // 2
    variants = {
        PEER: _by_peer(size),
        AGAIN: _by_peer(size),
        "ste, same target": _by_pruner(fixed),
        "ste, rising target": _by_pruner(rising, SLOPE),
        "hard, same target": _by_pruner(hard),
    }
    most = min(size.most, STEPS // 2 // SLOPE - 2)  # rounds until the target is reached
    measured = in_turn(variants, size.least, most)
    goals = {name: GOAL for name in variants if name not in (PEER, AGAIN)}
    return Section(
        name="update",
        title=f"mask update of a ViT {size.width}x{size.depth}, {weights:,} weights in scope",
        baseline=f"{PEER}.global_unstructured on the same layers, sparsity 0.9",
        rows=Timed(measured, size.judged).rows(goals),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["between two updates all weights take an AdamW step, which is not in the time"],
    )


def _by_peer(size: Size) -> Variant:
    def variant() -> float:
        model = size.vit()  # the peer's masks pile up on a model that has some
        return timed(lambda: prune_by_peer(model))()

    return variant


def _by_pruner(training: Training, slope: int = 1) -> Variant:
    pruner = training.pruner
    assert pruner is not None
    generator = torch.Generator().manual_seed(3)
    grads = {n: torch.randn(p.shape, generator=generator) for n, p in pruner.params.items()}

    def variant() -> float:
        for name, param in pruner.params.items():
            param.grad = grads[name]
        pruner.before_step()
        training.optimizer.step()
        pruner.step += slope - 1
        return timed(pruner.after_step)()

    return variant
