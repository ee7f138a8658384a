"""Whether a block of a stock transformer can do with fewer tokens behind its attention, by trying.

On a copy of the block with other weights, in float64: tokens that stay come out as they do beside
the others, and where attention weighs by size, it reads merged equal tokens as it reads each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.models.attention_view import AttentionView
from prunekit.models.passage import FIRST, BlockHooks, Passage
from prunekit.models.seams import Seam, possible_seams
from prunekit.registry.configs import CompressorConfig

SIZES = (1, 3, 1, 2)
"""Of one protected token and three others."""


class Keeping(DataCompressor):
    """Keeps the first tokens, or puts sizes on all."""

    def __init__(self, keeps: int | None = None, sizes: Sequence[int] | None = None) -> None:
        super().__init__(CompressorConfig(name="keeping"))
        self.keeps, self.sizes = keeps, sizes

    @property
    def needs_size_bias(self) -> bool:
        """Where it gives sizes."""
        return self.sizes is not None

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """See `keeps` and `sizes`."""
        x, size, protected = tokens
        if self.sizes is not None:
            size = torch.tensor(self.sizes).to(size).view(1, -1, 1).expand_as(size)
        return TokenBatch(x[:, : self.keeps], size[:, : self.keeps], protected)

    def output_tokens(self, n: int) -> int:
        """All but the protected one, of which there is one here."""
        return n if self.keeps is None else min(n, self.keeps - 1)


def tried_seam(
    copied: Callable[[], nn.Module], width: int, differ: Callable[[Tensor, Tensor], bool]
) -> Seam | None:
    """The seam of a block, `bias` None where attention does not weigh by it; None: it has none.

    Args:
        copied: makes a copy of the block, in float64, in evaluation, always with equal weights.
        width: of a token.
        differ: whether two outputs are not the same but for rounding.
    """
    x = torch.randn(2, sum(SIZES), width, dtype=torch.float64)
    for seam in possible_seams(copied()):
        try:
            whole = copied()(x)
            if any(differ(whole[:, :k], _kept(copied(), seam, x, k)) for k in (len(x[0]), 4)):
                continue
        except Exception:  # whatever a third-party module does
            continue
        return seam if _weighs(copied, seam, x, differ) else dataclasses.replace(seam, bias=None)
    return None


def _kept(block: nn.Module, seam: Seam, x: Tensor, count: int) -> Tensor:
    passage = Passage(1, [seam], weighs=False)
    passage.held[0] = Keeping(count)
    BlockHooks(passage, 0, seam).put(block)
    out: Tensor = block(x)
    return out


def _weighs(
    copied: Callable[[], nn.Module], seam: Seam, x: Tensor, differ: Callable[[Tensor, Tensor], bool]
) -> bool:
    if seam.bias is None:
        return False
    group = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    merged, block = x[:, : len(SIZES)], copied()
    passage = Passage(1, [seam], weighs=False)
    passage.held[FIRST] = Keeping(sizes=SIZES)
    passage.compress(
        FIRST, TokenBatch(merged, merged.new_ones(2, len(SIZES), 1), 1), AttentionView(frozenset())
    )
    BlockHooks(passage, 0, seam).put(block)
    try:
        return not differ(copied()(merged[:, group]), block(merged)[:, group])
    except Exception:  # whatever a third-party module does
        return False
