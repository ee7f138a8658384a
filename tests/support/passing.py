"""Strategies that see batches and pass several times, and plain loops without prunekit."""

from typing import Literal

import torch
from torch import nn

from prunekit import PruningStrategy, StrategyConfig, Update


class Still(PruningStrategy):
    """A random half of each weight, from the first step to the last."""

    class Config(StrategyConfig):
        name: Literal["still"] = "still"

    def due(self, clock):
        return clock.active_step == 0

    def update(self, ctx):
        return Update(masks={n: half(w, i) for i, (n, w) in enumerate(ctx.weights.items())})


def half(weight, place=0):
    """A mask that is a function of the shape and the place."""
    draw = torch.Generator().manual_seed(place + 7)
    return torch.rand(weight.shape, generator=draw) < 0.5


class Sam(Still):
    """Sharpness-aware minimization (arXiv:2010.01412): the gradient at w + rho g / |g|."""

    class Config(Still.Config):
        name: Literal["sam"] = "sam"
        rho: float = 0.5

    def around_gradients(self, ctx, compute):
        compute()
        grads = ctx.grads
        moves = {n: g * ctx.masks[n] if n in ctx.masks else g for n, g in grads.items()}
        norm = torch.stack([move.norm() for move in moves.values()]).norm()
        scale = self.config.rho / (norm + 1e-12)
        with ctx.perturbed({n: ctx.weights[n] + scale * move for n, move in moves.items()}):
            compute()

    def gradient_passes(self, clock):
        return 2


class LogitDecay(Still):
    """0.3 x mean of the squared logits, and the dense weights' mean square times the share of
    the first class."""

    class Config(Still.Config):
        name: Literal["logit_decay"] = "logit_decay"

    def batch_penalty(self, ctx):
        targets = ctx.targets
        first = (targets[:, 0] if targets.ndim == 2 else (targets == 0).float()).mean()
        weights = sum(w.square().sum() for w in ctx.weights.values())
        return 0.3 * ctx.logits.square().mean() + 0.1 * first * weights


def net(batchnorm=False, dropout=False):
    """A small net of fixed start weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
        if batchnorm:
            layers.insert(1, nn.BatchNorm1d(8))
        if dropout:
            layers.insert(-1, nn.Dropout(0.4))
        return nn.Sequential(*layers)


def batches(steps, size=12):
    """(x, y) of each step."""
    draw = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, 6, generator=draw), torch.randint(3, (size,), generator=draw))
        for _ in range(steps)
    ]
