"""What a data compressor is: a module that shortens a token sequence inside a forward pass."""

from __future__ import annotations

import abc
import math
from fractions import Fraction
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.registry.configs import CompressorConfig

KEYS, CLASS_ATTENTION, DEPTH = "keys", "class_attention", "depth"
READS = frozenset({KEYS, CLASS_ATTENTION, DEPTH})
"""What a compressor may read beside tokens and sizes: the names of what `TokenBatch` carries."""


class Depth(NamedTuple):
    """How far into the encoder a slot lies."""

    block: int
    """From 0; in the slot `tokens`, before the encoder, 0 too."""
    blocks: int
    """Of the encoder."""


class _Tokens(NamedTuple):
    x: Tensor
    """[B, N, C] tokens."""
    size: Tensor
    """[B, N, 1] input patches that each token stands for."""
    protected: int
    """Leading tokens that are never merged or dropped (the class token)."""


class TokenBatch(_Tokens):
    """Tokens on their way through a model: a tuple of three, and what the compressor asked for.

    What its `reads` names is an attribute, None for all others: of the attention of the slot's
    block, with its norms of queries and keys, before its dropout. What comes out of a compressor
    carries none of it.
    """

    keys: Tensor | None = None
    """[B, N, D]: the key of each token, its mean over the heads."""
    class_attention: Tensor | None = None
    """[B, N], float32 at least, rows that add up to 1: how much the class token attends to each
    token, protected ones and itself included, its mean over the heads."""
    depth: Depth | None = None

    def __new__(
        cls,
        x: Tensor,
        size: Tensor,
        protected: int,
        keys: Tensor | None = None,
        class_attention: Tensor | None = None,
        depth: Depth | None = None,
    ) -> Self:
        """A tuple has its values before `__init__`."""
        self = super().__new__(cls, x, size, protected)
        self.keys, self.class_attention, self.depth = keys, class_attention, depth
        return self


class DataCompressor(nn.Module, abc.ABC):
    """Shorten a token sequence.

    A module, because it is part of the graph: it moves with `.to()`, knows train and eval, may hold
    parameters. `prunekit.testing.check_compressor` checks what must hold: `output_tokens(N)` tokens
    come out, the first `protected` ones unchanged, sizes add up where `conserves_mass`, gradients
    reach x, ratio 0 is the identity.
    """

    Config: ClassVar[type[CompressorConfig]]
    paper: ClassVar[str] = ""
    """Where the method comes from: `arXiv:NNNN.NNNNN`."""
    conserves_mass: ClassVar[bool] = True
    """Whether the sizes that come out add up to those that went in."""
    passes_all = False
    """Whether `pass_all` made it give what it gets."""

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits (proportional attention)."""
        return False

    @property
    def reads(self) -> frozenset[str]:
        """What it needs beside tokens and sizes: of `keys`, `class_attention`, `depth`.

        A class may say `reads = frozenset({"keys"})`. A model that cannot give it refuses the
        compressor.
        """
        return frozenset()

    @abc.abstractmethod
    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, N, C] -> [B, output_tokens(N), C]."""

    def groups(self, tokens: TokenBatch) -> Tensor | None:
        """Where `forward` puts each token: its place among those that come out, int64 [B, N].

        -1 = dropped. What shows which patches were merged reads it; None = it is not known.
        """
        return None

    @abc.abstractmethod
    def output_tokens(self, n: int) -> int:
        """Tokens out for `n` in, protected ones not counted; a function of n only.

        In train or eval mode as the module is.

        Raises:
            RecipeError: no token would be left.
        """


def pass_all(model: nn.Module) -> None:
    """Let the compressors of a model, which is a copy, give what they get, and read nothing."""
    for module in model.modules():
        if isinstance(module, DataCompressor):
            module.forward = _identity  # type: ignore[method-assign]
            module.passes_all = True


def _identity(tokens: Any) -> Any:
    return tokens


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
