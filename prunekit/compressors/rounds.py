"""Compressors that match tokens in rounds of at most half of them."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from prunekit.compressors.base import KEYS, RatioCompressor, RatioConfig, TokenBatch
from prunekit.compressors.means import Matching
from prunekit.compressors.tome import merge


class RoundsConfig(RatioConfig):
    """The settings of a compressor that matches tokens."""

    metric: Literal["tokens", "keys"] = "tokens"
    """What is compared: the tokens that pass, or in `blocks.N` their attention keys, the mean over
    the heads."""
    proportional_attention: bool = False
    """Whether attention adds log(size) to its logits; needs a model that offers it."""
    deterministic: bool = False
    """Sum in a fixed order on CUDA too; slower."""


class RoundsCompressor(RatioCompressor):
    """Match and merge; where more than n // 2 of n tokens must go, what is left is matched again.

    Keys are merged along, by the size-weighted mean of their groups.
    """

    config: RoundsConfig

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    @property
    def reads(self) -> frozenset[str]:
        """Keys, where those are compared."""
        return frozenset({KEYS} if self.config.metric == "keys" else ())

    @abc.abstractmethod
    def match(self, metric: Tensor, removed: int, tokens: TokenBatch) -> Matching:
        """Decide which tokens merge.

        Args:
            metric: [B, N, D] float32 or wider, what is compared; no gradient.
            removed: how many are to go, 1 .. n // 2 of the n that are not protected.
            tokens: as they came into the slot, for what they carry.
        """

    def merged(self, tokens: TokenBatch, matching: Matching, came: TokenBatch) -> TokenBatch:
        """What a round makes of tokens: by default the size-weighted mean of each group.

        Args:
            tokens: [B, N, C].
            matching: what `match` gave for them.
            came: as they came into the slot, for what they carry.
        """
        return merge(tokens, matching, deterministic=self.config.deterministic)

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        return self._passed(tokens)[0]

    @torch.no_grad()
    def groups(self, tokens: TokenBatch) -> Tensor:
        """The output slot of each input token over all rounds, int64 [B, N]."""
        return self._passed(tokens)[1]

    def _passed(self, came: TokenBatch) -> tuple[TokenBatch, Tensor]:
        samples, count, _ = came.x.shape
        group = torch.arange(count, device=came.x.device).expand(samples, -1)
        tokens, keys = came, came.keys if self.config.metric == "keys" else None
        left, n = self.output_tokens(count - came.protected), count - came.protected
        while n > left:
            removed = min(n - left, n // 2)
            matching = self._matched(tokens.x if keys is None else keys, removed, came)
            if keys is not None:
                keys = merge(TokenBatch(keys, tokens.size, came.protected), matching).x
            tokens = self.merged(tokens, matching, came)
            group = matching.group.gather(1, group)
            n -= removed
        return tokens, group

    @torch.no_grad()
    def _matched(self, metric: Tensor, removed: int, came: TokenBatch) -> Matching:
        exact = torch.promote_types(metric.dtype, torch.float32)
        return self.match(metric.detach().to(exact), removed, came)
