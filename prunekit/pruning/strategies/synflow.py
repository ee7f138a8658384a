"""Pruning without data, by iterative synaptic flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from prunekit.errors import RecipeError
from prunekit.foundation.devices import as_float64
from prunekit.foundation.modules import computing_with
from prunekit.pruning.distributions import Demand
from prunekit.pruning.scores import finite_flags
from prunekit.pruning.strategies.at_initialization import AtInitialization
from prunekit.pruning.strategies.base import Context, Masks, Update

NORMALISING = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _InstanceNorm),
    *(nn.Softmax, nn.MultiheadAttention),
)
REMEDY = "use snip, grasp or magnitude, or a model of convolutions, linear layers and BatchNorm"


class SynFlow(AtInitialization):
    """Keep the weights with the largest synaptic flow, pruned in many rounds before training.

    R is the sum of the outputs for an input of ones, with |w| in place of every parameter; the
    score (dR/d|w|) * |w| >= 0 is the part of R that flows through w. Round k of n prunes to density
    (1 - sparsity)^(k/n) what the rounds before it kept, and scores again; where a second update may
    bring nothing back (`regrow: false`), its rounds begin at the density of the first. Without
    biases, and with ReLUs, each layer's scores sum to R: a layer that gets thin scores high, and
    none of a chain is emptied while there is room for a full path. Layers side by side share R, so
    a branch that carries little of it may be emptied.

    No data is read. As in the public code the model is in evaluation mode and in float64. Not as
    there: masks are exact in ties; |.| is taken of parameters only, BatchNorm's running mean and
    variance count as 0 and 1; and nothing is written into the model, so nothing is to be restored.
    Layers that normalise by what flows through them are refused: scores would have both signs.
    """

    class Config(AtInitialization.Config):
        """Settings of SynFlow."""

        name: Literal["synflow"]
        iterations: int = Field(default=100, ge=1)
        """Rounds of scoring and pruning, n."""

    config: SynFlow.Config
    paper = "arXiv:2006.05467"

    def prepare(self, model: nn.Module) -> None:
        """Refuse a model that normalises by what flows through it.

        Raises:
            RecipeError: names the layer.
        """
        for path, module in model.named_modules():
            if isinstance(module, NORMALISING):
                raise RecipeError(
                    f"strategy synflow: {path} is a {type(module).__name__}, which divides by what "
                    f"flows through it, so that the flow is not a sum of positive parts: {REMEDY}"
                )

    def update(self, ctx: Context) -> Update:
        """Score and prune, `iterations` times."""
        config, final, rounds = self.config, self.target(ctx.clock), self.config.iterations
        masks: dict[str, Tensor] = {} if config.regrow else dict(ctx.masks)
        kept, total = self.count_units(ctx.model, ctx.masks)
        start = max(kept, 1) / total if masks else 1.0
        for k in range(1, rounds + 1):
            self.take_scores(ctx, self.passes(ctx, masks))
            scores = {n: self.of_kind(n, self.score(n, ctx), ctx) for n in ctx.weights}
            finite = finite_flags(scores)
            if k == 1 and start == 1.0:
                _check_flow(scores, ctx.weights)
            if masks:
                scores = {n: s.masked_fill(~masks[n], -torch.inf) for n, s in scores.items()}
            last = k == rounds
            sparsity = final if last else 1 - start * ((1 - final) / start) ** (k / rounds)
            demand = Demand(scores, sparsity, config.min_keep, finite=True)
            masks = self.select(ctx, demand, finite)
        return Update(masks, finite=finite)

    @torch.enable_grad()
    def passes(self, ctx: Context, masks: Masks | None = None) -> Mapping[str, Tensor]:
        """(dR/d|w|) * |w|, float64 [shape of w], of the scope under `masks`; none = all kept."""
        masks, weights = masks or {}, ctx.weights
        size = {
            name: as_float64(weights.get(name, param).detach()).abs()
            for name, param in ctx.model.named_parameters()
        }
        device = next(iter(size.values())).device
        masks = {name: mask.to(device) for name, mask in masks.items()}
        size = {n: (s * masks[n] if n in masks else s).requires_grad_() for n, s in size.items()}
        ones = torch.ones(1, *ctx.input_shape, dtype=torch.float64, device=device)
        values = size | _neutral_buffers(ctx.model, device)
        outputs = computing_with(ctx.model, values).eval()(ones)
        scored = [size[name] for name in weights]
        grads = torch.autograd.grad(outputs.sum(), scored, materialize_grads=True)
        return {name: g * s.detach() for name, g, s in zip(weights, grads, scored, strict=True)}


def _neutral_buffers(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Copies of the buffers in float64; a BatchNorm's statistics are those that change nothing."""
    buffers = {
        name: (as_float64(buffer) if buffer.is_floating_point() else buffer).to(device, copy=True)
        for name, buffer in model.named_buffers()
    }
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            mean = buffers[f"{path}.running_mean"]
            buffers |= {f"{path}.running_mean": torch.zeros_like(mean)}
            buffers |= {f"{path}.running_var": torch.ones_like(mean)}
    return buffers


def _check_flow(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Of the dense model: no part is negative, and no tensor has none, unless it is all zeros.

    Raises:
        RecipeError: a layer normalises or subtracts, or the output does not depend on a tensor.
    """
    for name, score in scores.items():
        if (score < 0).any():
            raise RecipeError(
                f"strategy synflow: a larger |w| in {name} lowers the output for positive weights, "
                f"so a layer behind it normalises or subtracts: {REMEDY}"
            )
        if weights[name].any() and not score.any():
            raise RecipeError(
                f"strategy synflow: {name} moves no output: it is unused, or something behind it "
                "is zero or saturated: leave it out (scope.exclude) or use snip"
            )
