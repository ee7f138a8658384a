"""What merging is compared with: the paper's steps written one after the other, and no merging."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.registry.configs import CompressorConfig


def plain_merge(x: Tensor, size: Tensor, removed: int) -> Tensor:
    """Bipartite soft matching and the size-weighted mean, as arXiv:2210.09461 (section 3) has them.

    Every second token is a source; the class token, the first of them, never merges.

    Args:
        x: [B, N, C] tokens.
        size: [B, N, 1] patches that each stands for.
        removed: sources that merge.
    """
    with torch.no_grad():
        metric = x / x.norm(dim=-1, keepdim=True)
        scores = metric[:, ::2] @ metric[:, 1::2].transpose(-1, -2)
        scores[:, 0] = -torch.inf
        best, target = scores.max(-1)
        order = best.argsort(dim=-1, descending=True).unsqueeze(-1)
        stays, goes = order[:, removed:], order[:, :removed]
        target = target.unsqueeze(-1).gather(1, goes)

    def added(values: Tensor) -> Tensor:
        """What goes added to what it goes to: [B, N, W] -> [B, N - removed, W]."""
        width = values.shape[-1]
        sources, targets = values[:, ::2], values[:, 1::2]
        left = sources.gather(1, stays.expand(-1, -1, width))
        moved = sources.gather(1, goes.expand(-1, -1, width))
        sums = targets.scatter_reduce(1, target.expand(-1, -1, width), moved, "sum")
        return torch.cat([left, sums], dim=1)

    means: Tensor = added(x * size) / added(size)
    return means


def same_tokens(
    drawn: tuple[Tensor, Tensor],
    plain: Callable[[Tensor, Tensor], Tensor],
    ours: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Both make the same tokens of one input, in whatever order.

    Raises:
        AssertionError: they do not.
    """
    with torch.no_grad():
        found = [way(*drawn) for way in (plain, ours)]
    rows = [t.gather(1, t[..., :1].argsort(dim=1).expand_as(t)) for t in found]
    torch.testing.assert_close(rows[1], rows[0], atol=1e-5, rtol=1e-5)


class Slice(DataCompressor):
    """The first tokens; the rest is cut off, which costs nothing and loses what it held."""

    conserves_mass = False

    def __init__(self, left: int) -> None:
        super().__init__(CompressorConfig(name="slice"))
        self.left = left

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + left, C]."""
        end = tokens.protected + self.left
        return TokenBatch(tokens.x[:, :end], tokens.size[:, :end], tokens.protected)

    def output_tokens(self, n: int) -> int:
        """Those that are left, of however many."""
        return min(n, self.left)
