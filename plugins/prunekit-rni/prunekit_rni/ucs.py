"""Uniform channel sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from prunekit import keep_count, top_mask
from prunekit_rni.batchnorm import OrdinaryBatchNorm


class UniformChannels(OrdinaryBatchNorm):
    """Train without a penalty, then every layer loses the same fraction: its smallest |gamma|.

    The baseline that asks whether ranking over layers, and pulling scales down, gain anything.
    Scales begin at 0.5.
    """

    class Config(OrdinaryBatchNorm.Config):
        """Settings of uniform channel sparsity."""

        name: Literal["ucs"]

    config: UniformChannels.Config
    paper = "arXiv:2204.06404"

    def select(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The best of each layer."""
        sparsity = self.config.sparsity
        return {
            conv: top_mask(score, keep_count(len(score), sparsity, self.floor(len(score))))
            for conv, score in scores.items()
        }
