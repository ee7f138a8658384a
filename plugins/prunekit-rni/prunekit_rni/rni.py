"""Receding Neuron Importances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from prunekit import Clock, ParamRule
from prunekit_rni.global_cut import GlobalChannelStrategy
from prunekit_rni.sigbn import SigBN, fold, put_sigbn


class RNI(GlobalChannelStrategy):
    """Bound every channel's scale, let the unimportant ones recede, cut them, fine-tune.

    Every BatchNorm2d becomes a SigBN: the importance of a channel is its scale sigmoid(gamma) in
    (0, 1), and there is no shift. Until the cut the penalty lambda * sum of u (1 - ln u) with
    u = sigmoid(gamma + shift), over all of them, pulls gamma down with the force
    lambda u (1 - u) (-ln u): at most 0.2603 lambda, where u = 0.2356, and next to nothing at either
    end, so channels with a large scale are left alone. The cut ranks the free channels of all
    layers by gamma. In the end a SigBN is folded into a plain BatchNorm2d.

    Differs from the authors' code: the count is exact, with ties by index, where a quantile and `>`
    prune all ties; every layer keeps `min_channels`, where theirs may keep one fewer; and the cut
    is of the last weights of the training (with `keep: best` of the best on the validation split),
    not of those that did best on the test set.
    """

    class Config(GlobalChannelStrategy.Config):
        """Settings of receding neuron importances."""

        name: Literal["rni"]
        penalty: float = Field(default=1e-4, ge=0)
        """Lambda, the weight of the penalty; the paper: 1e-3 for VGG-16, 1e-4 for ResNet-56."""
        shift: float = 3.0
        """Moves the scales that are pulled most to gamma = -1.18 - shift; 3 for VGG-16, 0 for
        ResNet-56."""
        lr_scale: float = Field(default=10.0, gt=0)
        """Factor on the learning rate of gamma, which has no weight decay."""

    config: RNI.Config
    paper = "arXiv:2204.06404"

    def __init__(self, config: RNI.Config) -> None:
        super().__init__(config)
        self._norms: tuple[str, ...] = ()

    def prepare(self, model: nn.Module) -> None:
        """SigBN for every BatchNorm2d, unless another strategy has put it there."""
        super().prepare(model)
        self._norms = put_sigbn(model)

    def optimizer_rules(self) -> Sequence[ParamRule]:
        """A learning rate of its own for gamma, and no decay."""
        scale = self.config.lr_scale
        return [
            ParamRule(match=f"{path}.gamma", lr_scale=scale, weight_decay=0.0)
            for path in self._norms
        ]

    def penalty(self, model: nn.Module, clock: Clock) -> Tensor | None:
        """The penalty, lambda * sum of u (1 - ln u), until the cut."""
        if self.is_cut(clock) or not self.config.penalty or not self._norms:
            return None
        gammas: list[Tensor] = [model.get_parameter(f"{path}.gamma") for path in self._norms]
        return self.config.penalty * receding(torch.cat(gammas), self.config.shift)

    def score(self, norm: nn.Module) -> Tensor:
        """Gamma: the order of sigmoid(gamma), without its rounding."""
        assert isinstance(norm, SigBN)
        return norm.gamma

    def closes(self, norm: str) -> tuple[str, ...]:
        """The gate."""
        return (f"{norm}.gate",)

    def finish(self, model: nn.Module) -> nn.Module:
        """Plain BatchNorm2d again; then as every cut of channels ends."""
        fold(model)
        return super().finish(model)


def receding(gamma: Tensor, shift: float) -> Tensor:
    """Sum of u (1 - ln u), u = sigmoid(gamma + shift); finite for any gamma, in (0, channels)."""
    log_u = F.logsigmoid(gamma + shift)
    return (log_u.exp() * (1 - log_u)).sum()
