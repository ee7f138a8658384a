"""What stands on a residual branch before it is added: a learned scale, stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A learned factor of each channel (arXiv:2103.17239, section 2)."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return x * self.gamma


class DropPath(nn.Module):
    """Leave the branch of a sample out in training, and scale up those that stay.

    Args:
        rate: chance of leaving out, [0, 1).

    arXiv:1603.09382, equation 2, scaled in training and not in evaluation, as dropout is. It draws
    from torch's global generator.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        stays = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * stays.div_(keep)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:g}"
