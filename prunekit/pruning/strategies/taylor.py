"""What removing a weight does to the loss, to first order, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.foundation.modules import evaluating
from prunekit.pruning.strategies.at_initialization import AtInitialization, scope_gradients
from prunekit.pruning.strategies.base import Context


class Taylor(AtInitialization):
    """Keep the weights that the loss of a trained model misses most: the mean of (g w)^2.

    Without w the loss of a batch is, to first order, g w lower, g = dL/dw; its square (eq. 8), or
    with `order: first` its absolute value, is averaged over the batches of the calibration samples.
    Unlike `snip`, which adds the gradients of all batches with their signs first, a weight counts
    that pulls each batch another way: in a trained model the sum of the gradients is near zero.
    With `structure: channel` or `head` the contributions of a unit's entries are averaged.

    In evaluation mode, BatchNorm by its running statistics: the model as it is. The size of the
    batches (`data.micro_batch`) matters, as in the paper.

    Differs from the paper: it accumulates scores while it fine-tunes and prunes a few units every
    few batches; here a schedule and a cadence do that, and each update measures anew. Its gates
    behind BatchNorm (eq. 9) are the scope `re:.*bn.*weight` with `structure: channel`.
    """

    class Config(AtInitialization.Config):
        """Settings of Taylor scores."""

        name: Literal["taylor"]
        samples: int = Field(default=256, ge=1)
        """Calibration samples."""
        balanced: bool = False
        """As many samples of each class as can be, instead of any."""
        order: Literal["squared", "first"] = "squared"
        """What a batch contributes: (g w)^2, or |g w|."""

    config: Taylor.Config
    paper = "arXiv:1906.10771 eq. 8"

    @torch.enable_grad()
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """The mean over batches, [shape of w], of the whole scope."""
        config, gradients = self.config, scope_gradients(ctx, self.config.name)
        totals = {name: torch.zeros_like(weight) for name, weight in ctx.weights.items()}
        with evaluating(ctx.model):
            for x, y in ctx.calibration(config.samples, config.balanced):
                grads = gradients.of(ctx.loss(x, y))
                for (name, weight), grad in zip(ctx.weights.items(), grads, strict=True):
                    change = grad * weight
                    part = change.square() if config.order == "squared" else change.abs()
                    totals[name].add_(part, alpha=len(y) / config.samples)
            gradients.check(lambda: self._first_loss(ctx))
        return totals

    def _first_loss(self, ctx: Context) -> Tensor:
        x, y = next(iter(ctx.calibration(self.config.samples, self.config.balanced)))
        return ctx.loss(x, y)
