"""A whole update of the masks against `torch.nn.utils.prune.global_unstructured`."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping

import torch
from torch.nn.utils import prune

from prunekit.bench.models import PEER, STEPS, Training, masked, places, prune_by_peer, scope_size
from prunekit.bench.rounds import AGAIN, Variant, in_turn, timed
from prunekit.bench.rows import Section, Timed
from prunekit.bench.sizes import Size

GOAL = 0.05
EACH = {"cadence": {"every": "1st"}}
RISING = {**EACH, "schedule": "linear"}
BEGIN, SLOPE = 780, 4
"""The step at which the rising target is 0.7, and steps from one update to the next: enough for
the last threshold to be no hint."""
PRUNED = "of a pruned model"


def update_ste(size: Size) -> Section:
    """Score, select, and write masks and weights: all that happens between two steps."""
    rising = masked(size, "ste", **RISING)
    assert rising.pruner is not None
    rising.pruner.step = BEGIN
    variants = {
        PEER: _by_peer(size, pruned=False),
        AGAIN: _by_peer(size, pruned=False),
        PRUNED: _by_peer(size, pruned=True),
        "same target": _by_pruner(masked(size, "ste", **EACH)),
        "rising target": _by_pruner(rising, SLOPE),
    }
    note = f"{PRUNED}: the baseline where 90 % of the weights are zero; it is faster there"
    return _section(size, "ste", "dense weights", variants, note)


def update_hard(size: Size) -> Section:
    """The same where pruned weights are zero."""
    variants = {
        PEER: _by_peer(size, pruned=True),
        AGAIN: _by_peer(size, pruned=True),
        "same target": _by_pruner(masked(size, "hard", **EACH)),
    }
    return _section(size, "hard", "weights of which 90 % are zero", variants)


def _section(
    size: Size, mode: str, what: str, variants: Mapping[str, Variant], *notes: str
) -> Section:
    most = min(size.most, (STEPS - BEGIN) // SLOPE - 2)  # rounds until the target is reached
    measured = in_turn(variants, size.least, most)
    goals = {name: GOAL for name in variants if name.endswith("target")}
    return Section(
        name=f"update, {mode}",
        title=f"all masks of a ViT {size.width}x{size.depth}, {scope_size(size.vit()):,} weights",
        baseline=f"{PEER}.global_unstructured to 90 %, of {what}, as ours",
        rows=Timed(measured, size.judged).rows(goals),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["before each update all weights take an AdamW step, which is not counted", *notes],
    )


def _by_peer(size: Size, *, pruned: bool) -> Variant:
    start = size.vit()
    if pruned:
        weights = places(start)
        prune_by_peer(weights)
        for module, name in weights:
            prune.remove(module, name)  # type: ignore[no-untyped-call]

    def variant() -> float:
        gc.collect()  # what the last time left behind is a cycle
        weights = places(copy.deepcopy(start))  # masks would pile up
        return timed(lambda: prune_by_peer(weights))()

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
