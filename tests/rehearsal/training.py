"""Whole runs on a device of one's choice, and what the host waits for in each of their steps.

These functions run in the process that has the device: `pretend(waits_of_steps, tree)`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.recipe.load import recipe_from
from prunekit.train.finish import conclude
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.trainer import Trainer
from tests.rehearsal.device import NAME, HostWaits, host_waits


@dataclass
class StepWaits:
    """What the host waited for in one step of a run."""

    number: int
    """t + 1."""
    updates: bool
    """Whether masks were decided."""
    step: HostWaits
    """In the step itself: forward, backward, masks, optimizer."""
    after: HostWaits
    """In what comes after it: logging, evaluation, checkpoint."""


Tensors = dict[str, Tensor]
"""Dense weights, buffers and masks at the end of training, by name, on the CPU."""


def run_on(device: str, tree: dict[str, Any], out: Path) -> Path:
    """A recipe from begin to the finished report; its directory."""
    with one_attention():
        return run_recipe(recipe_from(tree | {"device": device}), out=out)


def resume_on(device: str, run_dir: Path) -> Path:
    """The rest of a run."""
    with one_attention():
        return resume_run(run_dir, device=device)


@contextmanager
def fitted(*, finish: bool) -> Iterator[Tensors]:
    """What runs within end their training with; without `finish` they are neither evaluated nor
    written then, which takes longer than a short training."""
    found: Tensors = {}

    def look(trainer: Trainer) -> None:
        masks = {f"mask {name}": mask for name, mask in trainer.engine.masks().items()}
        tensors = trainer.state.weights() | masks
        found.update({name: one.detach().cpu().clone() for name, one in tensors.items()})
        if finish:
            conclude(trainer)

    ours = [module for name, module in sys.modules.items() if name.startswith("prunekit.")]
    with ExitStack() as patches:
        for module in ours:
            if getattr(module, "conclude", None) is conclude:
                patches.enter_context(patch.object(module, "conclude", look))
        yield found


def one_attention() -> AbstractContextManager[Any]:
    """One kernel of attention on both devices: the CPU's others round otherwise."""
    context: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH)
    return context


def waits_of_steps(tree: dict[str, Any], *, finish: bool = False) -> list[StepWaits]:
    """Train by a recipe on the pretend device; what the host waited for in each step."""
    with tempfile.TemporaryDirectory() as out, fitted(finish=finish), watched_steps() as seen:
        run_on(NAME, tree, Path(out))
    return seen


@contextmanager
def watched_steps() -> Iterator[list[StepWaits]]:
    """What the host waits for in each step of the runs within."""
    seen: list[StepWaits] = []
    advance, after = Trainer.advance, Trainer._after_step

    def counted_advance(trainer: Trainer) -> None:
        with host_waits() as found:
            advance(trainer)
        engine = trainer.engine
        seen.append(StepWaits(engine.step, bool(engine.updated()), found, HostWaits()))

    def counted_after(trainer: Trainer) -> None:
        with host_waits() as seen[-1].after:
            after(trainer)

    with (
        patch.object(Trainer, "advance", counted_advance),
        patch.object(Trainer, "_after_step", counted_after),
    ):
        yield seen
