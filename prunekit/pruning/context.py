"""What a strategy or probe sees at one moment, and what it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.errors import UsageError
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import Clock
from prunekit.pruning.strategies.base import Masks

if TYPE_CHECKING:
    from prunekit.pruning.pruner import Pruner


Anchor = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]
"""Dense weights at the anchor step by name, or a function that gives them."""


class Ranks(Protocol):
    """What pruning needs of the other processes."""

    @property
    def world(self) -> int:
        """How many there are, this one included."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over the ranks."""

    def all_equal(self, digest: bytes) -> bool:
        """Whether every rank has this digest (32 bytes)."""


class OneProcess:
    """`Ranks` of a single process."""

    world = 1

    def mean(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x

    def all_equal(self, digest: bytes) -> bool:
        """Always so."""
        return True


class Calibration(Protocol):
    """Where calibration samples come from; a `DataSet` is one."""

    def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of fixed, un-augmented training samples, the same on all ranks."""


@dataclass
class StepContext:
    """The `Context` of one strategy or probe at one moment: what it has read stays as it was."""

    pruner: Pruner
    label: str
    names: tuple[str, ...]
    clock: Clock
    index: int

    @property
    def model(self) -> nn.Module:
        """The plain module."""
        return self.pruner.model

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Dense W of the scope."""
        return {name: self.pruner.dense(name) for name in sorted(self.names)}

    @cached_property
    def grads(self) -> Mapping[str, Tensor]:
        """dL/d(W*M) of the scope; zeros where nothing flowed."""
        params = ((name, self.pruner.params[name]) for name in sorted(self.names))
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params}

    @cached_property
    def masks(self) -> Masks:
        """The masks of the scope; parameters that no strategy masks have none."""
        mask_set = self.pruner.mask_set
        return {n: mask_set.mask(n) for n in sorted(self.names) if n in mask_set.params}

    @cached_property
    def anchor(self) -> Mapping[str, Tensor]:
        """Dense weights at the anchor step; a run reads them from its checkpoint."""
        return self.pruner.anchor_weights(self.label)

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator of (seed, step, strategy), fresh in each context; draws go on within it."""
        place = seed_for(self.pruner.seed, "strategy", self.index, self.clock.step)
        return torch.Generator().manual_seed(place)

    @property
    def lr_scale(self) -> float:
        """Learning rate now over its highest."""
        return self.pruner.lr_scale()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[C, H, W]."""
        if self.pruner.input_shape is None:
            raise UsageError(f"{self.label} needs input_shape: give it to the Pruner")
        return self.pruner.input_shape

    def calibration(self, samples: int, balanced: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration batches."""
        if self.pruner.data is None:
            raise UsageError(f"{self.label} needs calibration data: give it to the Pruner")
        return self.pruner.data.calibration(samples, balanced)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The training loss; flash attention has no second derivative, so attention is math."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.pruner.loss_function(self.pruner.model(x), y)

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """Mean over the ranks."""
        return self.pruner.ranks.mean(x)
