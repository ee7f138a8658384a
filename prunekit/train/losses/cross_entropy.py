"""Cross-entropy, with or without label smoothing."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from prunekit.registry.configs import LossConfig
from prunekit.train.losses.base import Loss, LossBatch


class CrossEntropy(Loss):
    """Minus the log-probability of the class, in nats, as a mean over the samples.

    With smoothing s the shares y of K classes become (1 - s) y + s / K.
    """

    class Config(LossConfig):
        """Settings of cross-entropy."""

        name: Literal["cross_entropy"]
        label_smoothing: float = Field(default=0.0, ge=0, lt=1)
        """Share of a label that is spread over all classes, [0, 1); 0.1 is usual."""

    config: CrossEntropy.Config
    paper = "arXiv:1512.00567, section 7 (label smoothing)"

    def value(self, batch: LossBatch) -> Tensor:
        """See `Loss`."""
        return F.cross_entropy(
            batch.logits, batch.targets, label_smoothing=self.config.label_smoothing
        )
