"""A mask update with all that the log says of it, beside the search and the masks alone."""

from __future__ import annotations

from typing import Any

import torch

from prunekit.bench.cases import (
    LARGE,
    SPARSITY,
    Size,
    TrainingCase,
    behind_a_step,
    masked,
    scope_size,
)
from prunekit.bench.measure import AGAIN, Section, Timed, Variant, in_turn, timed
from prunekit.pruning.scores import Scores
from prunekit.pruning.selection import keep_count, top_masks_global
from prunekit.pruning.sparsity import measure_sparsity, warn_empty_tensors

GOAL = 1.4


def logged_ste(size: Size) -> Section:
    """Where dense weights are kept."""
    return _logged(size, "ste")


def logged_hard(size: Size) -> Section:
    """Where pruned weights are zero."""
    return _logged(size, "hard")


def _logged(size: Size, mode: str) -> Section:
    size = LARGE if size.judged else size
    training = masked(size, mode, cadence={"every": "1st"})
    engine, move = training.engine, behind_a_step(training)
    assert engine is not None
    ranked = timed(_Ranking(training))

    def update() -> None:
        engine.update_masks()
        _told(training)

    counted = timed(update)

    def variant() -> float:
        move()
        return counted()

    variants: dict[str, Variant] = {"alone": ranked, AGAIN: ranked, "update and log": variant}
    measured = in_turn(variants, size.least, size.most)
    return Section(
        name=f"logged, {mode}",
        title=f"all masks of a ViT {size.width}x{size.depth} and what the log says of them, "
        f"{scope_size(training.model):,} weights",
        baseline="the threshold and the new masks alone, warm",
        rows=Timed(measured, size.judged).rows({"update and log": GOAL}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=["before each update all weights take an AdamW step, which is not counted"],
    )


class _Ranking:
    """The global threshold and its masks, from the last threshold on."""

    def __init__(self, training: TrainingCase) -> None:
        assert training.engine is not None
        self._masks = training.engine.mask_set
        total = sum(param.numel() for param in self._masks.params.values())
        self._keep, self._cut = keep_count(total, SPARSITY), None

    def __call__(self) -> None:
        scores = Scores({n: self._masks.dense(n) for n in self._masks.params}, key=torch.abs)
        scores.cut = self._cut
        top_masks_global(scores, self._keep)
        self._cut = scores.cut


def _told(training: TrainingCase) -> dict[str, Any]:
    """What a run logs of an update."""
    engine = training.engine
    assert engine is not None
    sparsity = measure_sparsity(training.model, engine.mask_set.counted())
    values: dict[str, Any] = {f"density/{one.name}": one.density for one in sparsity.tensors}
    values |= {f"flips/{one.label}": sum(one.flips.values()) for one in engine.updated()}
    values |= engine.corrections(now=True)
    return {**values, "empty": warn_empty_tensors(sparsity), "target": engine.target()}
