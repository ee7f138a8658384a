"""`prunekit bench masks`: what masks cost, beside what others take for the same."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch.nn.utils import prune

from prunekit.bench.cases import (
    FULL,
    PEER,
    QUICK,
    SPARSITY,
    STEPS,
    Size,
    TrainingCase,
    behind_a_step,
    by_kthvalue,
    by_peer,
    dense,
    masked,
    peer_weights,
    prune_by_peer,
    scope_size,
)
from prunekit.bench.logged_update import logged_hard, logged_ste
from prunekit.bench.measure import (
    AGAIN,
    Section,
    Timed,
    Variant,
    in_turn,
    one_thread,
    timed,
)
from prunekit.bench.memory import memory
from prunekit.bench.overhead import overhead
from prunekit.pruning.search import find_threshold
from prunekit.pruning.selection import keep_count

GOAL = 0.05
EACH = {"cadence": {"every": "1st"}}
RISING = {**EACH, "schedule": {"name": "linear", "stop": "100%"}}
BEGIN, SLOPE = 780, 4
"""The step at which the rising target is 0.7, and steps from one update to the next: enough for
the last threshold to be no hint."""
PRUNED = "of a pruned model"


def update_ste(size: Size) -> Section:
    """Score, select, and write masks and weights: all that happens between two steps."""
    rising = masked(size, "ste", **RISING)
    assert rising.engine is not None
    rising.engine.step = BEGIN
    variants = {
        PEER: _by_peer(size, pruned=False),
        AGAIN: _by_peer(size, pruned=False),
        PRUNED: _by_peer(size, pruned=True),
        "same target": _by_engine(masked(size, "ste", **EACH)),
        "rising target": _by_engine(rising, SLOPE),
    }
    note = f"{PRUNED}: the baseline where 90 % of the weights are zero; it is faster there"
    return _section(size, "ste", "dense weights", variants, note)


def update_hard(size: Size) -> Section:
    """The same where pruned weights are zero."""
    variants = {
        PEER: _by_peer(size, pruned=True),
        AGAIN: _by_peer(size, pruned=True),
        "same target": _by_engine(masked(size, "hard", **EACH)),
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
        weights = peer_weights(start)
        prune_by_peer(weights)
        for module, name in weights:
            prune.remove(module, name)  # type: ignore[no-untyped-call]

    def variant() -> float:
        """Seconds of one pruning by the peer; the copy of the weights is made outside of them."""
        gc.collect()  # what the last time left behind is a cycle
        weights = peer_weights(copy.deepcopy(start))  # masks would pile up
        return timed(lambda: prune_by_peer(weights))()

    return variant


def _by_engine(training: TrainingCase, slope: int = 1) -> Variant:
    engine = training.engine
    assert engine is not None
    move, update = behind_a_step(training, slope), timed(engine.update_masks)

    def variant() -> float:
        """Seconds of one update by the engine, behind a step that is not counted."""
        move()
        return update()

    return variant


EVAL_PASSES = 10


def _trainings(size: Size) -> dict[str, TrainingCase]:
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
        rows=Timed(measured, size.judged).rows({}),
        rounds=measured.rounds,
        null=measured.null.error,
    )


def evaluation(size: Size) -> Section:
    """The forward pass of one image in evaluation, where masks weigh most."""
    x, y = size.images(1)
    trainings = _trainings(size)

    def forward(training: TrainingCase) -> None:
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


DRIFT = 1.003
"""How far the threshold has moved since the update that the hint is from."""
COLD, WARM = "cold, from a sample", "warm, from the last"


def threshold(size: Size) -> Section:
    """Find the threshold of 90 % sparsity, without and with the last one as a hint."""
    weights = size.weights()
    total = sum(weight.numel() for weight in weights)
    keep = keep_count(total, SPARSITY)
    exact = by_kthvalue(weights, keep)

    def search(hint: float | None) -> None:
        if find_threshold(weights, keep, hint, key=torch.abs) != exact:
            raise AssertionError("the search is not exact")

    baseline = timed(lambda: by_kthvalue(weights, keep))
    variants = {
        "torch.kthvalue": baseline,
        AGAIN: baseline,
        COLD: timed(lambda: search(None)),
        WARM: timed(lambda: search(exact * DRIFT)),
    }
    measured = in_turn(variants, size.least, size.most)
    return Section(
        name="threshold",
        title=f"exact threshold over {total:,} weights, sparsity {SPARSITY:g}",
        baseline="torch.kthvalue on torch.cat of all |w|; the abs is in both times",
        rows=Timed(measured, size.judged).rows({COLD: 0.06, WARM: 0.045}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            "found values are equal to the bit, each time",
            f"warm: the hint is {DRIFT - 1:.1%} off, as after an update in between",
        ],
    )


SECTIONS = {
    "threshold": (threshold,),
    "update": (update_ste, update_hard),
    "logged": (logged_ste, logged_hard),
    "overhead": (overhead,),
    "step": (step,),
    "memory": (memory,),
    "eval": (evaluation,),
}


def bench_masks(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure one section after the other, on one thread of the CPU.

    Args:
        only: names of `SECTIONS`; none is all.
        quick: sizes that take seconds, and judge nothing.
    """
    with one_thread():
        for name in only or SECTIONS:
            for section in SECTIONS[name]:
                yield section(QUICK if quick else FULL)
