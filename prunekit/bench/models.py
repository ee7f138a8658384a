"""Models in training, dense and masked, as the benchmarks compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from prunekit.bench.sizes import Size
from prunekit.foundation.parameters import Scope
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy

SPARSITY = 0.9
STEPS = 1000
PEER = "torch.nn.utils.prune"


@dataclass
class Training:
    """A model, its optimizer and perhaps a pruner."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    pruner: Pruner | None = None

    def step(self, x: Tensor, y: Tensor) -> None:
        """One training step, as a loop would take it."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        torch.autograd.backward(loss)
        if self.pruner is not None:
            self.pruner.before_step()
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.after_step()


def dense(size: Size) -> Training:
    """Without masks."""
    model = size.vit()
    return Training(model, _adamw(model))


def masked(size: Size, mode: str, **settings: Any) -> Training:
    """Pruned by magnitude; a fixed mask of 90 % unless `settings` say otherwise."""
    model = size.vit()
    fixed = {"schedule": "constant", "cadence": {"every": "once"}}
    chosen = strategy("magnitude", sparsity=SPARSITY, mode=mode, **{**fixed, **settings})
    pruner = Pruner(model, [chosen], total_steps=STEPS)
    optimizer = _adamw(model)
    pruner.attach(optimizer)
    return Training(model, optimizer, pruner)


def by_peer(size: Size) -> Training:
    """Pruned by `torch.nn.utils.prune`, to the same sparsity of the same weights."""
    model = size.vit()
    prune_by_peer(places(model))
    return Training(model, _adamw(model))


def places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights in scope, as the peer names them."""
    names = [name.rpartition(".") for name in Scope().select(model)]
    return [(model.get_submodule(path), own) for path, _, own in names]


def prune_by_peer(weights: list[tuple[nn.Module, str]]) -> None:
    """The mask update of the peer."""
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=SPARSITY)


def scope_size(model: nn.Module) -> int:
    """Weights that magnitude pruning has in scope."""
    return sum(model.get_parameter(name).numel() for name in Scope().select(model))


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
