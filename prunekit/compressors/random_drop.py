"""Random token dropping."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.compressors.base import RatioCompressor, RatioConfig, TokenBatch


class RandomDrop(RatioCompressor):
    """Keep a random subset of the tokens, of an exact size and in their order.

    In training each sample has a subset of its own, uniform over all of that size, drawn anew in
    every forward pass (arXiv:2208.07220). In evaluation all samples share one subset, fixed by the
    positions alone, so that a result can be repeated; a larger ratio keeps a part of what a smaller
    one keeps. The paper evaluates with all tokens: that is `eval_ratio: 0`. The default keeps the
    count of training instead, as a comparison at equal token counts needs.
    """

    class Config(RatioConfig):
        """Settings of random token dropping."""

        name: Literal["random_drop"]

    paper = "arXiv:2208.07220"
    conserves_mass = False
    config: RandomDrop.Config

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        x, size, protected = tokens
        if self.output_tokens(x.shape[1] - protected) == x.shape[1] - protected:
            return tokens
        rows = self._kept(tokens).unsqueeze(-1)
        return TokenBatch(
            x.gather(1, rows.expand(-1, -1, x.shape[2])), size.gather(1, rows), protected
        )

    def groups(self, tokens: TokenBatch) -> Tensor:
        """The place of each kept token, -1 for those that are dropped, int64 [B, N].

        In training those of a pass that begins in the same random state.
        """
        group = tokens.x.new_full(tokens.x.shape[:2], -1, dtype=torch.int64)
        kept = self._kept(tokens)
        return group.scatter(
            1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        )

    def _kept(self, tokens: TokenBatch) -> Tensor:
        """The tokens that stay, protected ones first, int64 [B, p + output_tokens(n)]."""
        x, _, protected = tokens
        samples, n = x.shape[0], x.shape[1] - protected
        key = torch.rand(samples, n, device=x.device) if self.training else _scatter(n, x.device)
        kept = protected + key.argsort(dim=-1)[:, : self.output_tokens(n)].sort(dim=-1).values
        always = torch.arange(protected, device=x.device).expand(kept.shape[0], -1)
        return torch.cat([always, kept], dim=1).expand(samples, -1)


def _scatter(n: int, device: torch.device) -> Tensor:
    """[1, n] distinct 32-bit numbers that look random, the same at every call.

    A hash of the position (two rounds of xor-shift and multiply, each a bijection), as every n-th
    token would be whole columns of an image, and a seeded generator breaks a compiled graph.
    """
    key = torch.arange(1, n + 1, device=device)
    for _ in range(2):
        key = ((key ^ (key >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (key ^ (key >> 16)).unsqueeze(0)
