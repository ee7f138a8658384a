"""Average pooling of neighbouring tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prunekit.compressors.base import RatioCompressor, RatioConfig, TokenBatch
from prunekit.compressors.means import Matching
from prunekit.compressors.tome import merge


class AveragePool(RatioCompressor):
    """Replace each run of neighbouring tokens by its size-weighted mean, whatever they hold.

    Of n tokens k are left: token i goes to group floor(i * k / n), so that groups are contiguous,
    differ in size by one at most and the larger ones lie evenly among the smaller. With k = n / 2
    this is the mean pooling of stride 2 of arXiv:2006.03236, which also keeps the class token out.
    It pools the sequence, not the image: patches stand row by row, so a group is a horizontal strip
    and may go on at the left edge of the next row.
    """

    class Config(RatioConfig):
        """Settings of average pooling."""

        name: Literal["average_pool"]
        proportional_attention: bool = False
        """Whether attention adds log(size) to its logits; needs a model that offers it."""

    paper = "arXiv:2006.03236 (stride 2)"
    config: AveragePool.Config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        n = tokens.x.shape[1] - tokens.protected
        left = self.output_tokens(n)
        if left == n:
            return tokens
        # groups of three or more would add up in any order on CUDA
        matching = Matching(self.groups(tokens), tokens.protected + left)
        return merge(tokens, matching, deterministic=True)

    def groups(self, tokens: TokenBatch) -> Tensor:
        """The output slot of each input token, int64 [B, N]."""
        x, _, protected = tokens
        n = x.shape[1] - protected
        alone = torch.arange(protected, device=x.device)
        pooled = protected + torch.arange(n, device=x.device) * self.output_tokens(n) // n
        return torch.cat([alone, pooled]).expand(x.shape[0], -1)
