"""Token reorganisation by class attention (EViT)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.compressors.base import CLASS_ATTENTION, RatioCompressor, RatioConfig, TokenBatch
from prunekit.compressors.tome import ranking


class Evit(RatioCompressor):
    """Keep the tokens that the class token attends to most, and fuse all others into one.

    Of k tokens that come out, k - 1 are kept in their order, equal ones by position, and the last
    is sum_i a_i x_i over the others, a_i the class token's attention to token i, its mean over the
    heads (arXiv:2202.07800). It stands for all patches of the fused ones.
    """

    class Config(RatioConfig):
        """Settings of EViT."""

        name: Literal["evit"]
        fused: Literal["sum", "mean"] = "sum"
        """Whether the weights of fused tokens are their attention, as published, or are divided by
        their sum, so that what is fused is a mean."""
        proportional_attention: bool = False
        """Whether attention adds log(size) to its logits; needs a model that offers it."""

    paper = "arXiv:2202.07800"
    reads = frozenset({CLASS_ATTENTION})
    config: Evit.Config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        x, size, first = tokens
        n = x.shape[1] - first
        left = self.output_tokens(n)
        if left == n:
            return tokens
        order = self._order(tokens)
        kept, rest = order[:, : left - 1].sort(dim=-1).values, order[:, left - 1 :]
        assert tokens.class_attention is not None, "it says that it reads it"
        weight = tokens.class_attention[:, first:].gather(1, rest)
        if self.config.fused == "mean":
            weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        patches, counts = x[:, first:], size[:, first:]
        fused = (_rows(patches, rest).to(weight.dtype) * weight.unsqueeze(-1)).sum(1, keepdim=True)
        sizes = _rows(counts, rest).sum(1, keepdim=True)
        return TokenBatch(
            torch.cat([x[:, :first], _rows(patches, kept), fused.to(x.dtype)], 1),
            torch.cat([size[:, :first], _rows(counts, kept), sizes], 1),
            first,
        )

    @torch.no_grad()
    def groups(self, tokens: TokenBatch) -> Tensor:
        """The place of each token, that of all fused ones the last, int64 [B, N]."""
        samples, count = tokens.x.shape[:2]
        first = tokens.protected
        left = self.output_tokens(count - first)
        alone = torch.arange(count, device=tokens.x.device).expand(samples, -1)
        if left == count - first:
            return alone
        fused = self._rank(tokens) >= left - 1
        place = torch.where(fused, left - 1, (~fused).cumsum(-1) - 1)
        return torch.cat([alone[:, :first], first + place], 1)

    def _rank(self, tokens: TokenBatch) -> Tensor:
        """The place of each unprotected token from the most attended down, int64 [B, n]."""
        assert tokens.class_attention is not None, "it says that it reads it"
        return ranking(tokens.class_attention.detach()[:, tokens.protected :])

    def _order(self, tokens: TokenBatch) -> Tensor:
        """The unprotected tokens from the most attended down, int64 [B, n]."""
        return self._rank(tokens).argsort(dim=-1)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[2]))
