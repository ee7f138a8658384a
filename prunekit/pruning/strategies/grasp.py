"""Pruning that preserves the gradient flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.foundation.modules import called_with
from prunekit.pruning.strategies.at_initialization import (
    AtInitialization,
    batch_statistics,
    scope_gradients,
)
from prunekit.pruning.strategies.base import Context


class GraSP(AtInitialization):
    """Keep the weights with the largest w * (H g), signed, before training.

    g = dL/dw and H = d2L/dw2 over the scope. Removing w changes the gradient flow g.g by
    -2 w * (H g), to first order: where w * (H g) is smallest, the flow grows, and there is pruned.
    Two passes over the same samples: g, then H g as the gradient of (g held fixed) . (dL/dw).

    L is the loss of training (the paper's is cross-entropy), of logits / temperature, as a mean
    over the samples, so that batches of any size give one score. BatchNorm normalises by the batch,
    as in the public code, and its running statistics stay untouched; dropout is off. Attention is
    computed by its definition, as fused kernels have no second derivative. Not as in that code:
    linear layers are scored with the weights that they start with, not with ones drawn for it, and
    the samples are not passed in two halves.
    """

    class Config(AtInitialization.Config):
        """Settings of GraSP."""

        name: Literal["grasp"]
        samples: int = Field(default=100, ge=1)
        """Calibration samples; the paper takes 10 of each class."""
        balanced: bool = True
        """As many samples of each class as can be, instead of any."""
        temperature: float = Field(default=200.0, gt=0)
        """What logits are divided by: a large one makes the outputs of all samples alike."""

    config: GraSP.Config
    paper = "arXiv:2002.07376"

    def calibrates_on(self) -> int:
        """All of its samples."""
        return self.config.samples

    @torch.enable_grad()
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """The product w * (H g), [shape of w], of the whole scope."""
        gradients = scope_gradients(ctx, self.config.name)
        params = [*gradients.params.values()]
        with batch_statistics(ctx.model), sdpa_kernel(SDPBackend.MATH):
            flow = gradients.total(self._losses(ctx))
            gradients.check(lambda: next(self._losses(ctx)))
            along = (_along(flow, loss, params) for loss in self._losses(ctx))
            curved = gradients.total(along)
        weights = ctx.weights.items()
        return {name: w * h for (name, w), h in zip(weights, curved, strict=True)}

    def _losses(self, ctx: Context) -> Iterator[Tensor]:
        """The mean loss in parts, one a batch."""
        config = self.config
        for x, y in ctx.calibration(config.samples, config.balanced):
            logits = _cooled(called_with(ctx.model, x), config.temperature)
            yield ctx.loss_of(logits, x, y) * (len(y) / config.samples)


def _cooled(logits: Any, temperature: float) -> Any:
    """Logits over the temperature; each of a pair, which a distillation token adds to."""
    if isinstance(logits, tuple):
        return tuple(one / temperature for one in logits)
    return logits / temperature


def _along(direction: Sequence[Tensor], loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The derivative of `loss` along a fixed direction; its own gradient is H times that."""
    grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    return torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()
