"""How many tokens a ratio removes: one rule, so that compressors compare at equal counts."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from pydantic import Field

from prunekit.compressors.base import DataCompressor
from prunekit.errors import RecipeError
from prunekit.registry.configs import CompressorConfig


class RatioConfig(CompressorConfig):
    """The settings of a compressor that removes a share of the tokens."""

    ratio: float = Field(ge=0, lt=1)
    """Share of the tokens (or pairs) that is removed, [0, 1)."""
    ratio_of: Literal["tokens", "pairs"] = "tokens"
    """What `ratio` is a share of: the n tokens, or the n // 2 pairs that one round of merging
    has."""
    eval_ratio: float | None = Field(default=None, ge=0, lt=1)
    """The ratio in evaluation; null = `ratio`."""


class RatioCompressor(DataCompressor):
    """A compressor whose token count follows from a ratio, exactly."""

    config: RatioConfig

    def __init__(self, config: RatioConfig) -> None:
        super().__init__(config)
        evaluated = config.ratio if config.eval_ratio is None else config.eval_ratio
        # whole numbers: exact, and torch.compile can trace them
        self._train_ratio = Fraction(repr(config.ratio)).as_integer_ratio()
        self._eval_ratio = Fraction(repr(evaluated)).as_integer_ratio()

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
