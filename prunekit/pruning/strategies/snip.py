"""Single-shot pruning by connection sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.pruning.strategies.at_initialization import (
    AtInitialization,
    batch_statistics,
    scope_gradients,
)
from prunekit.pruning.strategies.base import Context


class Snip(AtInitialization):
    """Keep the weights that the loss is most sensitive to, before training: score |g * w|.

    With a gate c on each weight, dL(c * w)/dc at c = 1 is g * w, g = dL/dw: what removing w changes
    in the loss, to first order. L is the mean loss over the calibration samples; signed gradients
    are summed over its batches before the absolute value is taken, so that batches of any size give
    one score. A zero weight scores 0.

    As in the public code BatchNorm normalises by the batch; its running statistics stay untouched.
    Not as there: dropout is off; scores are not divided by their sum, which ranks them the same;
    and `torch`'s or the model's own initialisation is kept (the paper's is variance scaling).
    """

    class Config(AtInitialization.Config):
        """Settings of SNIP."""

        name: Literal["snip"]
        samples: int = Field(default=128, ge=1)
        """Calibration samples: one batch of the paper's CIFAR-10 runs."""
        balanced: bool = False
        """As many samples of each class as can be, instead of any."""

    config: Snip.Config
    paper = "arXiv:1810.02340"

    def calibrates_on(self) -> int:
        """All of its samples."""
        return self.config.samples

    @torch.enable_grad()
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """|g * w|, [shape of w], of the whole scope."""
        with batch_statistics(ctx.model):
            gradients = scope_gradients(ctx, self.config.name)
            grads = gradients.total(self._losses(ctx))
            gradients.check(lambda: next(self._losses(ctx)))
        weights = ctx.weights.items()
        return {name: (g * w).abs() for (name, w), g in zip(weights, grads, strict=True)}

    def _losses(self, ctx: Context) -> Iterator[Tensor]:
        """The mean loss in parts, one a batch."""
        samples = self.config.samples
        for x, y in ctx.calibration(samples, self.config.balanced):
            yield ctx.loss(x, y) * (len(y) / samples)
