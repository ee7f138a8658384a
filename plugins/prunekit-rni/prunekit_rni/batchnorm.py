"""What the baselines share: the scales of ordinary BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunekit_rni.channels import ChannelStrategy
from prunekit_rni.sigbn import is_fresh

START = 0.5
"""Scale of a fresh BatchNorm, as in network slimming's code."""


class OrdinaryBatchNorm(ChannelStrategy):
    """Rank channels by |gamma|; a closed channel has neither scale nor shift."""

    @torch.no_grad()
    def initialize(self, model: nn.Module) -> None:
        """Scales begin at 0.5, where the model does not come from another run."""
        for module in batch_norms(model):
            if is_fresh(module):
                module.weight.fill_(START)

    def score(self, norm: nn.Module) -> Tensor:
        """|gamma|."""
        assert isinstance(norm, nn.BatchNorm2d)
        return norm.weight.abs()

    def closes(self, norm: str) -> tuple[str, ...]:
        """Scale and shift."""
        return f"{norm}.weight", f"{norm}.bias"


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorms of a model that have a scale."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
