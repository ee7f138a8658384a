"""Binary cross-entropy: each class by itself."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from prunekit.registry.configs import LossConfig
from prunekit.train.losses.base import Loss, LossBatch, shares_of


class BCE(Loss):
    """Ask of each class whether it is there: sigmoid, not softmax; the mean over all of them.

    Mixed images have several classes (DeiT III). With smoothing s the shares y of K classes become
    (1 - s) y + s / K, as in cross-entropy.
    """

    class Config(LossConfig):
        """Settings of binary cross-entropy."""

        name: Literal["bce"]
        label_smoothing: float = Field(default=0.0, ge=0, lt=1)
        """Share of a label that is spread over all classes, [0, 1)."""
        threshold: float | None = Field(default=None, ge=0, lt=1)
        """A class counts as there, with 1, if its share is above it: DeiT III has 0; null = shares
        are taken as they are."""
        reduction: Literal["mean", "sum"] = "mean"
        """Over the classes of a sample: the mean, or the sum, which is as many times larger."""

    config: BCE.Config
    paper = "arXiv:2204.07118 (DeiT III), arXiv:2110.00476"

    def value(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        config, classes = self.config, batch.logits.shape[-1]
        shares = shares_of(batch.targets, classes)
        shares = shares * (1 - config.label_smoothing) + config.label_smoothing / classes
        if config.threshold is not None:
            shares = (shares > config.threshold).float()
        found = F.binary_cross_entropy_with_logits(batch.logits, shares)
        return found * classes if config.reduction == "sum" else found
