"""Token merging."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.compressors.base import TokenBatch
from prunekit.compressors.merging import Matching, Similarity, match, merge
from prunekit.compressors.ratio import RatioCompressor, RatioConfig


class Tome(RatioCompressor):
    """Merge similar tokens, with no parameter and no training of its own.

    Every second token (A) may join the token of the other half (B) that is most like it; the best
    pairs are replaced by their size-weighted mean. One round merges at most n // 2 of n tokens;
    where more must go, the merged sequence is split and matched again. In the slot `tokens` this is
    the single pass before the encoder of arXiv:2407.16716; in `blocks.N` it stands where
    arXiv:2210.09461 has it, though it compares the tokens themselves, not attention keys.
    """

    class Config(RatioConfig):
        """Settings of token merging."""

        name: Literal["tome"]
        similarity: Similarity = "dot"
        """`dot`: a.b, which favours tokens of large norm; `cosine`; `neg_l2`: -|a - b|^2."""
        partition: Literal["patch", "sequence"] = "patch"
        """Whether A is every second unprotected token, or every second token of the whole sequence,
        class token included, as in the code of arXiv:2210.09461. Protected tokens never merge; a
        round removes at most n // 2 either way."""
        proportional_attention: bool = False
        """Whether attention adds log(size) to its logits; needs a model that offers it."""
        deterministic: bool = False
        """Sum in a fixed order on CUDA too; slower."""

    paper = "arXiv:2210.09461 (matching), arXiv:2407.16716 (single pass before the encoder)"
    config: Tome.Config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    def rounds(self, n: int) -> tuple[int, ...]:
        """How many tokens each round removes of `n`; empty where nothing is to be done."""
        left, removed = self.output_tokens(n), []
        while n > left:
            removed.append(min(n - left, n // 2))
            n -= removed[-1]
        return tuple(removed)

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        for removed in self.rounds(tokens.x.shape[1] - tokens.protected):
            matching = self._match(tokens, removed)
            tokens = merge(tokens, matching, deterministic=self.config.deterministic)
        return tokens

    @torch.no_grad()
    def groups(self, tokens: TokenBatch) -> Tensor:
        """The output slot of each input token over all rounds, int64 [B, N]."""
        samples, count, _ = tokens.x.shape
        group = torch.arange(count, device=tokens.x.device).expand(samples, -1)
        for removed in self.rounds(count - tokens.protected):
            matching = self._match(tokens, removed)
            group = matching.group.gather(1, group)
            tokens = merge(tokens, matching, deterministic=self.config.deterministic)
        return group

    def _match(self, tokens: TokenBatch, removed: int) -> Matching:
        odd = self.config.partition == "sequence" and tokens.protected % 2
        return match(
            tokens.x,
            removed,
            protected=tokens.protected,
            similarity=self.config.similarity,
            first=1 if odd else 0,
        )
