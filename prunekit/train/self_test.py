"""A few masked steps on a device beside the same on the CPU: does pruning work there?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from prunekit.foundation.devices import HOST, cpu_threads, wait_for
from prunekit.foundation.unfinished import scratch
from prunekit.recipe.load import recipe_from
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.observer import Observer
from prunekit.train.trainer import Trainer

STEPS = 6
NEAR = 1e-2
"""Of a loss: what TF32 and another order of sums may come to in so few steps."""
HELD = {"name": "magnitude", "sparsity": 0.5, "schedule": "constant", "cadence": {"every": "2st"}}
RECIPE = {
    "name": "self_test",
    "data": {"name": "digits", "batch_size": 64, "train_limit": 512, "augment": ["flip"]},
    "model": {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 64, "heads": 4},
    "compressors": [{"name": "tome", "slot": "tokens", "ratio": 0.4}],
    "strategies": [
        {**HELD, "mode": "ste", "scope": {"include": ["blocks.0.*.weight"]}},
        {**HELD, "mode": "hard", "scope": {"include": ["blocks.1.*.weight"]}},
    ],
    "optimizer": {"name": "adamw", "lr": 1e-3, "clip_norm": 1.0},
    "phases": [{"name": "train", "length": f"{STEPS}st"}],
    "loggers": [],
}
"""A ViT whose tokens are merged, pruned in two modes; each scope is large enough for the search of
a threshold from a sample."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    what: str
    holds: bool
    found: str
    """In figures."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the steps showed."""

    device: str
    seconds: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all holds."""
        return all(check.holds for check in self.checks)


@dataclass
class _Trace:
    """Of a run on one device, all on the host."""

    losses: list[float] = field(default_factory=list)
    masks: list[dict[str, Tensor]] = field(default_factory=list)
    wrong: int = 0
    """Pruned weights that are larger than one that is kept, over all updates."""
    alive: int = 0
    """Pruned weights that were not 0 after a step."""


def self_test(device: torch.device) -> SelfTest:
    """Train on the device and on the CPU, from the same weights on the same batches; seconds.

    That the largest weights are kept is looked at on the host, by their own values: it must hold
    to the last one on any device. What has been trained differs by rounding.
    """
    began = time.perf_counter()
    try:
        here, there = _trained(HOST), _trained(device)
        wait_for(device)
        checks = tuple(_checks(here, there))
    except Exception as error:  # whatever a broken device raises is what a report needs
        what = " ".join(f"{type(error).__name__}: {error}".split())
        checks = (Check("the steps run", False, what),)
    return SelfTest(str(device), time.perf_counter() - began, checks)


def _trained(device: torch.device) -> _Trace:
    found, group = _Trace(), ProcessGroup(0, 1, device)
    with cpu_threads(torch.get_num_threads()):  # as before, whatever the recipe sets
        run = build(recipe_from(RECIPE), group)
        with scratch() as folder, ExitStack() as close:
            trainer = Trainer(run, folder, Observer(run, folder))
            close.callback(trainer.observer.log_to.close)
            trainer.begin()
            _look(trainer, found)
            before = 0.0
            for _ in range(STEPS):
                trainer.advance()
                after = float(trainer.observer.state_dict()["sums"][0])
                found.losses.append(after - before)
                before = after
                _look(trainer, found)
    return found


def _look(trainer: Trainer, found: _Trace) -> None:
    """The masks, and what they do to the weights."""
    engine = trainer.engine
    found.masks.append({name: mask.to(HOST, copy=True) for name, mask in engine.masks().items()})
    for assigned in engine.assigned:
        dense = {n: engine.mask_set.dense(n).detach().to(HOST).abs() for n in assigned.scope}
        kept = torch.cat([dense[n][found.masks[-1][n]] for n in dense])
        pruned = torch.cat([dense[n][~found.masks[-1][n]] for n in dense])
        if engine.updated():
            found.wrong += int((pruned > kept.min()).sum())
        for name in dense:
            weights = engine.params[name].detach().to(HOST)
            found.alive += int(weights[~found.masks[-1][name]].count_nonzero())


def _checks(here: _Trace, there: _Trace) -> Iterator[Check]:
    first = sum(int((here.masks[0][n] != there.masks[0][n]).sum()) for n in here.masks[0])
    entries = sum(mask.numel() for mask in here.masks[0].values())
    yield Check(
        "from the same weights, the masks of the CPU", first == 0, f"{first} of {entries} differ"
    )
    yield Check("the largest weights are kept", there.wrong == 0, f"{there.wrong} are not")
    yield Check("pruned weights stay 0", there.alive == 0, f"{there.alive} do not")
    changed = sum(int((a[n] != b[n]).sum()) for a, b in pairwise(there.masks) for n in a)
    yield Check("masks go on changing", changed > 0, f"{changed} entries in {STEPS} steps")
    far = max(abs(a - b) / abs(a) for a, b in zip(here.losses, there.losses, strict=True))
    yield Check(f"losses within {NEAR:.0%} of those of the CPU", far <= NEAR, f"{far:.1e}")
