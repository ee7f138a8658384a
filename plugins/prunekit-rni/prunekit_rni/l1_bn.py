"""Network slimming: an L1 penalty on the scales of BatchNorm."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit import Clock
from prunekit_rni.batchnorm import OrdinaryBatchNorm, batch_norms
from prunekit_rni.global_cut import GlobalChannelStrategy


class L1BatchNorm(OrdinaryBatchNorm, GlobalChannelStrategy):
    """Pull all scales of BatchNorm to zero alike, cut the smallest of all layers, fine-tune.

    Until the cut the penalty is lambda * sum of |gamma| over every BatchNorm2d. Scales begin at
    0.5. A channel's shift is closed with its scale, so that nothing of it is left to absorb.

    Differs from the paper: the count is exact, and the cut is made once.
    """

    class Config(GlobalChannelStrategy.Config):
        """Settings of an L1 penalty on scales."""

        name: Literal["l1_bn"]
        penalty: float = Field(default=1e-4, ge=0)
        """Lambda, the weight of the penalty; beside RNI: 1e-4 for VGG-16, 1e-5 for ResNet-56."""

    config: L1BatchNorm.Config
    paper = "arXiv:1708.06519"

    def penalty(self, model: nn.Module, clock: Clock) -> Tensor | None:
        """The penalty, lambda * sum of |gamma|, until the cut."""
        if self.is_cut(clock) or not self.config.penalty:
            return None
        scales: list[Tensor] = [module.weight for module in batch_norms(model)]
        return self.config.penalty * torch.cat(scales).abs().sum() if scales else None
