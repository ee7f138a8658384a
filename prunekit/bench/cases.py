"""What is compared: sizes, trainings with and without masks, and what others take for the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from prunekit.bench.measure import placed
from prunekit.foundation.parameters import Scope
from prunekit.foundation.timeline import Timeline
from prunekit.models.vit import ViTConfig
from prunekit.pruning.engine import Engine
from prunekit.pruning.strategies import strategy
from prunekit.registry.configs import DataSpec

CLASSES = 10


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, how often, and whether goals may be judged by it."""

    width: int
    """Of a token of the vision transformer, whose images have 32 px and patches 4."""
    depth: int
    """Its blocks."""
    batch: int
    """Images of a training step."""
    layers: int
    """Blocks of as many weights that the threshold is searched in."""
    least: int
    """Rounds at least."""
    most: int
    """Rounds at most."""
    judged: bool

    def vit(self) -> nn.Module:
        """A vision transformer, the same each time."""
        torch.manual_seed(0)
        heads = max(1, self.width // 128)
        config = ViTConfig(
            name="vit", patch_size=4, embed_dim=self.width, depth=self.depth, heads=heads
        )
        return placed(config.build(DataSpec(channels=3, height=32, width=32, classes=CLASSES)))

    def images(self, batch: int) -> tuple[Tensor, Tensor]:
        """Noise and labels."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(batch, 3, 32, 32, generator=generator)
        return placed(x), placed(torch.randint(CLASSES, (batch,), generator=generator))

    def weights(self) -> list[Tensor]:
        """Normal weights in the shapes of transformer blocks, without a model around them."""
        generator, w = torch.Generator().manual_seed(2), self.width
        shapes = [(3 * w, w), (w, w), (4 * w, w), (w, 4 * w)] * self.layers
        made = (torch.empty(shape).normal_(0, 0.02, generator=generator) for shape in shapes)
        return [placed(weight) for weight in made]


FULL = Size(width=384, depth=4, batch=8, layers=16, least=15, most=60, judged=True)
"""ViT 384x4 with 7.1 M weights in scope; 28.3 M weights to search in."""
QUICK = Size(width=32, depth=1, batch=2, layers=4, least=2, most=2, judged=False)
"""Seconds in all: shows that it runs, and says nothing about speed."""


LARGE = replace(FULL, width=768, depth=12)
"""85.0 M weights in scope."""

SPARSITY = 0.9
STEPS = 1000
PEER = "torch.nn.utils.prune"


@dataclass
class TrainingCase:
    """A model, its optimizer and perhaps an engine that prunes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    engine: Engine | None = None

    def step(self, x: Tensor, y: Tensor) -> None:
        """One training step, as a loop would take it."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        torch.autograd.backward(loss)
        self.move()

    def move(self) -> None:
        """What follows on backward."""
        if self.engine is not None:
            self.engine.before_step()
        self.optimizer.step()
        if self.engine is not None:
            self.engine.count_step()
            self.engine.update_masks()


def dense(size: Size) -> TrainingCase:
    """Without masks."""
    model = size.vit()
    return TrainingCase(model, _adamw(model))


def masked(size: Size, mode: str, **settings: Any) -> TrainingCase:
    """Pruned by magnitude; a fixed mask of 90 % unless `settings` say otherwise."""
    model = size.vit()
    fixed = {"schedule": "constant", "cadence": {"every": "once"}}
    chosen = strategy("magnitude", sparsity=SPARSITY, mode=mode, **{**fixed, **settings})
    engine = Engine(model, [chosen], Timeline.single(STEPS, 1))
    optimizer = _adamw(model)
    engine.attach(optimizer)
    return TrainingCase(model, optimizer, engine)


def behind_a_step(training: TrainingCase, slope: int = 1) -> Callable[[], None]:
    """A step of the optimizer by fixed gradients, and `slope` steps on the clock of the engine."""
    engine, give = training.engine, fixed_gradients(training.model)
    assert engine is not None

    def move() -> None:
        give()
        engine.before_step()
        training.optimizer.step()
        engine.step += slope

    return move


def fixed_gradients(model: nn.Module) -> Callable[[], None]:
    """Gives all parameters the same noise as gradients, each time."""
    generator = torch.Generator().manual_seed(3)
    drawn = [(p, torch.randn(p.shape, generator=generator)) for p in model.parameters()]
    grads = [(param, placed(grad)) for param, grad in drawn]

    def give() -> None:
        for param, grad in grads:
            param.grad = grad

    return give


def by_peer(size: Size) -> TrainingCase:
    """Pruned by `torch.nn.utils.prune`, to the same sparsity of the same weights."""
    model = size.vit()
    prune_by_peer(peer_weights(model))
    return TrainingCase(model, _adamw(model))


def peer_weights(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights in scope, as the peer names them."""
    names = [name.rpartition(".") for name in Scope().select(model)]
    return [(model.get_submodule(path), own) for path, _, own in names]


def prune_by_peer(weights: list[tuple[nn.Module, str]]) -> None:
    """The mask update of the peer."""
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=SPARSITY)


def by_kthvalue(weights: list[Tensor], keep: int) -> float:
    """The threshold that leaves `keep`, with every |w| in one tensor."""
    joined = torch.cat([weight.abs().flatten() for weight in weights])
    return torch.kthvalue(joined, joined.numel() - keep + 1).values.item()


def scope_size(model: nn.Module) -> int:
    """Weights that magnitude pruning has in scope."""
    return sum(model.get_parameter(name).numel() for name in Scope().select(model))


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
