"""What a data compressor is: a module that shortens a token sequence inside a forward pass."""

from __future__ import annotations

import abc
import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.values import NewKey
from prunekit.registry.configs import EVERY_BLOCK, CompressorConfig

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


def _in_backward() -> bool:
    """Whether autograd is at work around here, as where a checkpoint computes anew."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class DataCompressor(nn.Module, abc.ABC):
    """Shorten a token sequence.

    A module, because it is part of the graph: it moves with `.to()`, knows train and eval, may hold
    parameters. These are trained and saved with those of the model, and pruned only where a scope
    names them. `prunekit.testing.check_compressor` checks what must hold: `output_tokens(N)` tokens
    come out, the first `protected` ones unchanged, sizes add up where `conserves_mass`, gradients
    reach x and the parameters, ratio 0 is the identity.
    """

    Config: ClassVar[type[CompressorConfig]]
    paper: ClassVar[str] = ""
    """Where the method comes from: `arXiv:NNNN.NNNNN`."""
    conserves_mass: ClassVar[bool] = True
    """Whether the sizes that come out add up to those that went in."""
    passes_all = False
    """Whether `pass_all` made it give what it gets."""
    adds_loss: ClassVar[bool] = False
    """Whether `forward` adds a term to the loss of training: by `add_loss`, where it removes
    tokens."""

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config
        self._term: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the term of the last pass: what has a graph cannot be copied."""
        return {**self.__dict__, "_term": None}

    def add_loss(self, term: Tensor) -> None:
        """Add a term to the loss of the batch that passes; called by `forward`, in training.

        Once a pass: a second call takes the place of the first. In evaluation it does nothing, nor
        where a checkpoint computes a pass again in the midst of its backward pass.

        Args:
            term: a scalar, the mean over the samples of the batch, times its weight.
        """
        if self.training and not _in_backward():
            self._term = term

    def take_loss(self) -> Tensor | None:
        """The term of the last pass in training, once; None = it left none, or it was taken."""
        term, self._term = self._term, None
        return term

    @property
    def has_loss(self) -> bool:
        """Whether the last pass left a term that nobody took."""
        return self._term is not None

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

        -1 = dropped. What shows which patches were merged reads it, and `prunekit.unmerge` puts
        tokens back by it. In training it draws what `forward` then draws in the same random state.
        None = it is not known.
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
    """The settings of a compressor that removes a share of the tokens, or a number."""

    ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tokens (or pairs) that is removed, [0, 1)."""
    ratio_of: Literal["tokens", "pairs"] = "tokens"
    """What `ratio` is a share of: the n tokens, or the n // 2 pairs that one round of merging
    has."""
    eval_ratio: float | None = Field(default=None, ge=0, lt=1)
    """The ratio in evaluation; null = `ratio`, or `r`."""
    r: Annotated[int | None, NewKey(3, before=None), Field(ge=0)] = None
    """Tokens that are removed, in place of a ratio; of n at most n // 2, as in arXiv:2210.09461."""
    over_blocks: Annotated[Literal["constant", "decreasing"], NewKey(3, before="constant")] = (
        "constant"
    )
    """In slot `blocks.*`: the same `r` or `ratio` in each block, or falling linearly from twice it
    in the first to 0 in the last (arXiv:2210.09461); of `r` as many in all."""

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if self.r is None and not self.ratio and "ratio" not in self.model_fields_set:
            raise ValueError("ratio or r: say how many tokens are removed")
        if self.r is not None and self.ratio:
            raise ValueError("r: in place of ratio: give one of the two")
        if self.over_blocks != "constant" and self.slot != EVERY_BLOCK:
            raise ValueError(f"over_blocks: is for slot {EVERY_BLOCK!r}")
        return self

    def in_block(self, slot: str, index: int, count: int) -> Self:
        """See `CompressorConfig`; with the `r` or `ratio` of this block."""
        own: dict[str, Any] = {"slot": slot, "over_blocks": "constant"}
        if self.over_blocks == "decreasing" and count > 1:
            if self.r is not None:
                # rounded sums, so that all blocks together remove count * r
                own["r"] = _falling(self.r, index + 1, count) - _falling(self.r, index, count)
            for key in ("ratio", "eval_ratio"):
                share = getattr(self, key)
                if share is not None:
                    whole = 2 * Fraction(repr(share)) * (count - 1 - index) / (count - 1)
                    own[key] = self._share(key, float(whole))
        return self.model_copy(update=own)

    def _share(self, key: str, ratio: float) -> float:
        if ratio >= 1:
            raise RecipeError(
                f"compressor {self.name!r}: {key} begins at twice its value with over_blocks "
                "decreasing: give one below 0.5"
            )
        return ratio


def _falling(r: int, blocks: int, count: int) -> int:
    """Tokens that go in the first `blocks` of `count`: sum of 2 r (1 - i / (count - 1))."""
    exact = Fraction(r * blocks * (2 * (count - 1) - (blocks - 1)), count - 1)
    return math.floor(exact + Fraction(1, 2))


class RatioCompressor(DataCompressor):
    """A compressor whose token count follows from a ratio, or a number, exactly."""

    config: RatioConfig

    def __init__(self, config: RatioConfig) -> None:
        super().__init__(config)
        evaluated = config.ratio if config.eval_ratio is None else config.eval_ratio
        # whole numbers: exact, and torch.compile can trace them
        self._train_ratio = Fraction(repr(config.ratio)).as_integer_ratio()
        self._eval_ratio = Fraction(repr(evaluated)).as_integer_ratio()

    def output_tokens(self, n: int) -> int:
        """Tokens out for `n` in: n - floor(ratio * n + 1/2), or of n // 2 for `pairs`.

        With `r`, n - min(r, n // 2). A single token is left as it is.

        Raises:
            RecipeError: no token would be left.
        """
        if self.config.r is not None and (self.training or self.config.eval_ratio is None):
            return n - min(self.config.r, n // 2)
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
