"""STR: soft thresholds that are learned with the weights, one a layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit.foundation.parameters import Holder, Holders, ParamRule
from prunekit.foundation.timeline import Clock
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.registry.configs import Mode, StrategyConfig

SUFFIX = "_str_threshold"
"""Of the parameter beside a weight that holds its s."""


class StrThreshold(PruningStrategy):
    """Compute on S(W) = sign(W) relu(|W| - g(s)), and learn s [1] of each layer by the loss.

    g is the sigmoid. dL/dW = dL/dS where |W| > g(s), else 0, and dL/ds = -g'(s) sum over these of
    dL/dS sign(W) (equations 3 to 5). Nothing but weight decay pulls s up, to 0 and so g to 1/2: the
    more of it, the more is pruned; how much in which layer emerges. S(W) is W times a soft mask
    1 - g / |W|, chosen anew at each step; at the end of the window it becomes the weight.

    s is a parameter beside the weight, which the optimizer of the run moves by its own rules; it
    is gone from the finished model.
    """

    class Config(StrategyConfig):
        """Settings of learned thresholds."""

        name: Literal["str_threshold"]
        mode: Mode = "ste"
        """`ste` only: what is below its threshold lives on in the dense W."""
        s_init: float = -5.0
        """s at the start; so far below 0 that sigmoid(s) prunes nothing at first."""
        threshold_decay: float | None = Field(default=None, ge=0)
        """Weight decay of s: more prunes more. null = that of the optimizer, as in the paper."""
        threshold_lr_scale: float = Field(default=1.0, gt=0)
        """Factor on the learning rate of s; 1 in the paper."""

    config: StrThreshold.Config
    paper = "arXiv:2002.03231 equations 3 to 5"
    modes = ("ste",)
    soft_masks = True
    needs_steps = True

    def __init__(self, config: StrThreshold.Config) -> None:
        super().__init__(config)
        self._thresholds: dict[str, nn.Parameter] = {}

    def prepare(self, model: nn.Module) -> None:
        """Put s beside each weight of the scope."""
        for name, holder in self._places(model):
            weight = holder.parameter
            dtype = torch.promote_types(weight.dtype, torch.float32)
            start = torch.full((1,), self.config.s_init, dtype=dtype, device=weight.device)
            self._thresholds[name] = nn.Parameter(start)
            holder.module.register_parameter(holder.own + SUFFIX, self._thresholds[name])
        # no forward pass reads them, and their gradients are made of those that DDP has averaged
        ignored = {
            f"{start}{name}{SUFFIX}" for name in self._thresholds for start in ("", COMPILED)
        }
        setattr(model, IGNORED, ignored | {*getattr(model, IGNORED, ())})

    def _places(self, model: nn.Module) -> Iterator[tuple[str, Holder]]:
        holders = Holders(model)
        for name in self.config.scope.select(model, self.default_scope):
            if not name.endswith(SUFFIX):  # of another of these strategies
                yield name, holders.first(name)

    def optimizer_rules(self) -> Sequence[ParamRule]:
        """What the settings say of s."""
        decay, scale = self.config.threshold_decay, self.config.threshold_lr_scale
        return [
            ParamRule(match=name + SUFFIX, lr_scale=scale, weight_decay=decay)
            for name in self._thresholds
        ]

    @torch.no_grad()
    def adjust_gradients(self, ctx: Context) -> None:
        """The gradient of s; that of W passes where it is above its threshold."""
        masks, weights = ctx.masks, ctx.weights
        for name, grad in ctx.grads.items():
            grad.mul_(masks[name])
            if (s := self._thresholds[name]).requires_grad:
                slope = s.sigmoid() * (1 - s.sigmoid())
                s.grad = -slope * (grad * weights[name].sign()).sum(dtype=s.dtype)

    def due(self, clock: Clock) -> bool:
        """After each step."""
        return True

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """All steps."""
        return (range(clock.active_steps + 1),)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """What is above its threshold, and which part of it is."""
        masks, soft = {}, dict[str, Tensor]()
        for name, weight in ctx.weights.items():
            size, threshold = weight.abs(), self._thresholds[name].sigmoid()
            masks[name] = size > threshold
            soft[name] = (1 - threshold / size).where(masks[name], 0.0)
        over = ctx.clock.active_step == ctx.clock.active_steps
        return Update(masks, soft=soft, fold=over)

    def finish(self, model: nn.Module) -> nn.Module:
        """Take s away."""
        for module in model.modules():
            for own in [own for own in module._parameters if own.endswith(SUFFIX)]:
                delattr(module, own)
        others = [name for name in getattr(model, IGNORED, ()) if not name.endswith(SUFFIX)]
        if others:
            setattr(model, IGNORED, {*others})
        elif hasattr(model, IGNORED):
            delattr(model, IGNORED)
        return model

    def metrics(self) -> dict[str, float]:
        """Mean threshold g(s) over the layers."""
        every = torch.cat([s.detach() for s in self._thresholds.values()])
        return {"threshold": float(every.sigmoid().mean())}


IGNORED = "_ddp_params_and_buffers_to_ignore"
"""Where DDP looks for names that it leaves alone."""
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a module."""
