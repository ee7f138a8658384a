"""Whether an optimizer holds masks and goes on from a checkpoint: tried before a run takes it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import PluginError, PrunekitError, RecipeError
from prunekit.foundation.seeding import seed_for
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.strategies.base import Update
from prunekit.recipe.optimizers import OptimizerSettings, OtherOptimizer
from prunekit.recipe.stock_optimizers import make_optimizer
from prunekit.registry.configs import Mode

SHAPES = {"matrix": (136, 130), "filters": (3, 2, 2, 2), "small": (5, 7)}
"""A matrix for those that take large ones apart; filters so small that others, which multiply a
matrix for each of their sides, end soon."""
STEPS, HALF = 24, 13
"""More than a period of those that do something else every few steps."""
CHANGES = (0, 5, 12, 18)
"""Where masks change, also back."""


class _FaultError(Exception):
    """What an optimizer does that it must not."""


def check_optimizer(config: OptimizerSettings, modes: Iterable[Mode]) -> None:
    """Refuse an optimizer that cannot hold masks of these modes, or cannot be resumed.

    AdamW and SGD are held to it by tests.

    Raises:
        RecipeError: what it does, and the remedy.
    """
    if not isinstance(config, OtherOptimizer):
        return
    wanted: list[Mode | None] = [*sorted(set(modes))]
    for mode in wanted or [None]:
        if fault := fault_of(config, mode):
            raise RecipeError(f"optimizer.name: {config.name} {fault}")


@lru_cache(maxsize=256)
def fault_of(config: OtherOptimizer, mode: Mode | None) -> str | None:
    """Why an optimizer is refused; None where it works.

    Args:
        config: its settings.
        mode: how pruned weights live; None = nothing is pruned.
    """
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.compiler.set_stance("force_eager"),  # some compile their step
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            _try(config, mode)
    except _FaultError as error:
        return str(error)
    except Exception as error:  # whatever a class of others raises
        text = " ".join(str(error).split()) or type(error).__name__
        return f"cannot be used in a run: {text[:200]}"
    return None


@dataclass
class _Training:
    """Weights, their masks and their optimizer."""

    config: OtherOptimizer
    mode: Mode | None

    def __post_init__(self) -> None:
        self.params = {
            name: nn.Parameter(_noise("weight", name, shape)) for name, shape in SHAPES.items()
        }
        modes: dict[str, Mode] = {} if self.mode is None else dict.fromkeys(SHAPES, self.mode)
        self.masks = MaskSet({n: self.params[n] for n in modes}, modes)
        self.optimizer = self._made()

    def _made(self) -> Optimizer:
        config = self.config
        group: dict[str, Any] = {"params": list(self.params.values()), "lr": config.lr}
        group |= {"initial_lr": config.lr, "weight_decay": config.weight_decay}
        optimizer = make_optimizer(config.name, [group], config.lr, config.arguments())
        self.masks.attach(optimizer)
        return optimizer

    def step(self, t: int) -> None:
        if t in CHANGES and self.mode is not None:
            self.masks.apply(Update(_masks(t)), SHAPES)
        self.optimizer.zero_grad(set_to_none=True)
        for name, param in self.params.items():
            param.grad = 0.1 * _noise("gradient", f"{name} {t}", SHAPES[name])
        self.masks.mask_gradients()
        try:
            self.optimizer.step()
        except PluginError as error:  # the masks look too
            raise _FaultError(MOVES) from error
        for name, param in self.params.items():
            if not bool(param.isfinite().all()):
                raise _FaultError(f"makes weights that are not finite at lr {self.config.lr:g}")
            if self.mode and bool(param[~self.masks.mask(name)].any()):
                raise _FaultError(MOVES)

    def saved(self) -> io.BytesIO:
        dense = {name: self.dense(name) for name in self.params}
        file = io.BytesIO()
        torch.save(
            {
                "masks": self.masks.state_dict(),
                "dense": dense,
                "optimizer": self.optimizer.state_dict(),
            },
            file,
        )
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        state = torch.load(file, weights_only=True)
        for name, value in state["dense"].items():
            self.params[name].data.copy_(value)
        if self.mode is not None:
            self.masks.load_state_dict(state["masks"], state["dense"])
        self.optimizer = self._made()
        self.optimizer.load_state_dict(state["optimizer"])

    def dense(self, name: str) -> Tensor:
        return self.masks.dense(name) if self.mode else self.params[name].detach()


MOVES = (
    "moves pruned weights, whose gradient and state are zero: use mode ste, or an optimizer that "
    "works entry by entry"
)
KRON = "timm:kron"
"""Draws from a generator that is in no saved state. Not tried: without opt_einsum a step takes
minutes, and a matrix of a model the memory of both its sides multiplied."""
FORGETS = "does not go on from its saved state as if it had never stopped: use another optimizer"


def _try(config: OtherOptimizer, mode: Mode | None) -> None:
    if config.name.startswith(KRON):
        raise _FaultError(FORGETS)
    whole = _Training(config, mode)
    if whole.optimizer.__class__ is torch.optim.LBFGS:
        raise _FaultError(CLOSURE)
    file = io.BytesIO()
    for t in range(STEPS):
        if t == HALF:
            file = whole.saved()
        whole.step(t)
    again = _Training(config, mode)
    try:
        again.load(file)
    except PrunekitError as error:
        raise _FaultError(FORGETS) from error
    for t in range(HALF, STEPS):
        again.step(t)
    for name in SHAPES:
        if not torch.equal(whole.dense(name), again.dense(name)):
            raise _FaultError(FORGETS)
    if mode == "ste":
        _compare_with_plain(whole)


CLOSURE = (
    "calls the model several times in a step, between moves that no mask follows: use an optimizer "
    "that takes one gradient a step"
)
OTHERWISE = "moves weights that a mask hides otherwise than without the mask: use another optimizer"


def _compare_with_plain(masked: _Training) -> None:
    """In `ste` dense weights move as if there were no mask."""
    plain = _Training(masked.config, None)
    for t in range(STEPS):
        plain.step(t)
    for name in SHAPES:
        if not torch.equal(plain.dense(name), masked.dense(name)):
            raise _FaultError(OTHERWISE)


def _noise(kind: str, name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed_for(kind, name))
    return torch.randn(shape, generator=generator)


def _masks(t: int) -> Mapping[str, Tensor]:
    return {name: _noise("mask", f"{name} {t}", shape) > 0.5 for name, shape in SHAPES.items()}
