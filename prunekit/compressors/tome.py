"""Token merging."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.compressors.base import CompressorConfig, DataCompressor, TokenBatch
from prunekit.compressors.merging import Matching, Similarity, match, merge
from prunekit.errors import RecipeError


class Tome(DataCompressor):
    """Merge similar tokens, with no parameter and no training of its own.

    Every second token (A) may join the token of the other half (B) that is most like it; the best
    pairs are replaced by their size-weighted mean. One round merges at most n // 2 of n tokens;
    where more must go, the merged sequence is split and matched again. In the slot `tokens` this is
    the single pass before the encoder of arXiv:2407.16716; in `blocks.N` it stands where
    arXiv:2210.09461 has it, though it compares the tokens themselves, not attention keys.
    """

    class Config(CompressorConfig):
        """Settings of token merging."""

        name: Literal["tome"]
        ratio: float = Field(ge=0, lt=1)
        """Share of the tokens (or pairs) that is merged away, [0, 1)."""
        ratio_of: Literal["tokens", "pairs"] = "tokens"
        """What `ratio` is a share of: the n tokens, by as many rounds as it takes, or the n // 2
        pairs of a single round."""
        similarity: Similarity = "dot"
        """`dot`: a.b, which favours tokens of large norm; `cosine`; `neg_l2`: -|a - b|^2."""
        partition: Literal["patch", "sequence"] = "patch"
        """Whether A is every second unprotected token, or every second token of the whole sequence,
        class token included, as in the code of arXiv:2210.09461. Protected tokens never merge; a
        round removes at most n // 2 either way."""
        proportional_attention: bool = False
        """Whether attention adds log(size) to its logits; needs a model that offers it."""
        eval_ratio: float | None = Field(default=None, ge=0, lt=1)
        """The ratio in evaluation; null = `ratio`."""
        deterministic: bool = False
        """Sum in a fixed order on CUDA too; slower."""

    paper = "arXiv:2210.09461 (matching), arXiv:2407.16716 (single pass before the encoder)"
    config: Tome.Config

    def __init__(self, config: Tome.Config) -> None:
        super().__init__(config)
        evaluated = config.ratio if config.eval_ratio is None else config.eval_ratio
        # whole numbers: exact, and torch.compile can trace them
        self._train_ratio = Fraction(repr(config.ratio)).as_integer_ratio()
        self._eval_ratio = Fraction(repr(evaluated)).as_integer_ratio()

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    def output_tokens(self, n: int) -> int:
        """Tokens out for `n` in: n - floor(ratio * n + 1/2), or of n // 2 for `pairs`.

        A single token is left as it is.

        Raises:
            RecipeError: no token would be left.
        """
        top, bottom = self._train_ratio if self.training else self._eval_ratio
        whole = n if self.config.ratio_of == "tokens" else n // 2
        removed = (2 * top * whole + bottom) // (2 * bottom) if n > 1 else 0
        if removed >= n > 1:
            limit = math.floor((2 * n - 1) / (2 * n) * 10_000) / 10_000
            raise RecipeError(
                f"compressor {self.config.name!r} in slot {self.config.slot!r}: ratio "
                f"{top / bottom} of {n} tokens leaves none: give a ratio below {limit}"
            )
        return n - removed

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
