"""What a strategy or probe sees at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.clock import Clock
from prunekit.errors import UsageError
from prunekit.seeding import seed_for
from prunekit.strategies.base import Masks

if TYPE_CHECKING:
    from prunekit.pruner import Pruner


@dataclass
class StepContext:
    """The `Context` of one strategy or probe at one moment."""

    pruner: Pruner
    label: str
    names: tuple[str, ...]
    clock: Clock
    index: int
    _weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The plain module."""
        return self.pruner.model

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Dense W of the scope."""
        if not self._weights:
            dense = self.pruner.dense
            self._weights = {name: dense(name) for name in sorted(self.names)}
        return self._weights

    @property
    def grads(self) -> Mapping[str, Tensor]:
        """dL/d(W*M) of the scope; zeros where nothing flowed."""
        params = self.pruner.params
        grads = {}
        for name in sorted(self.names):
            grad = params[name].grad
            grads[name] = torch.zeros_like(params[name]) if grad is None else grad
        return grads

    @property
    def masks(self) -> Masks:
        """The masks of the scope."""
        return {name: self.pruner.mask_set.mask(name) for name in sorted(self.names)}

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """Dense weights at the anchor step."""
        return self.pruner.anchor_weights()

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
