"""What the host of a CUDA device waits for, step by step, as torch's own sync debug mode tells it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch

from prunekit.train.trainer import Trainer

SAYS = "synchronizing"
"""A word of torch's warning of a wait, and of its error."""


@dataclass(frozen=True)
class Step:
    """A step of a run."""

    number: int
    """t + 1."""
    updates: bool
    """Whether masks were decided."""
    lines: dict[str, int]
    """File and line -> waits."""


@dataclass
class Steps:
    """The steps of a run, watched while they are taken."""

    device: torch.device
    strict: frozenset[int] = frozenset()
    """Numbers of steps in which a wait is an error."""
    steps: list[Step] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)

    def look(self, call: Callable[[], object], mode: str = "warn") -> None:
        """Call it, and keep what it waited for in `last`."""
        with warnings.catch_warnings(record=True) as told, _sync_mode(self.device, mode):
            warnings.simplefilter("always")
            call()
        waits = [one for one in told if SAYS in str(one.message)]
        self.last = dict(Counter(f"{_short(one.filename)}:{one.lineno}" for one in waits))


def _short(file: str) -> str:
    return "/".join(file.split("/")[-2:])


@contextmanager
def _sync_mode(device: torch.device, mode: str) -> Iterator[None]:
    """CUDA alone has it; elsewhere nothing is seen."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def watched(seen: Steps) -> Iterator[None]:
    """Trainers within tell of their steps; logging, evaluating and saving are not watched."""
    advance = Trainer.advance

    def looked(trainer: Trainer) -> None:
        number = trainer.engine.step + 1
        seen.look(lambda: advance(trainer), "error" if number in seen.strict else "warn")
        seen.steps.append(Step(number, bool(trainer.engine.updated()), seen.last))

    with patch.object(Trainer, "advance", looked):
        yield
