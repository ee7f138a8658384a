"""What a data compressor is: a module that shortens a token sequence inside a forward pass."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from prunekit.registry.configs import CompressorConfig


class TokenBatch(NamedTuple):
    """Tokens on their way through a model."""

    x: Tensor
    """[B, N, C] tokens."""
    size: Tensor
    """[B, N, 1] input patches that each token stands for."""
    protected: int
    """Leading tokens that are never merged or dropped (the class token)."""


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

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits (proportional attention)."""
        return False

    @abc.abstractmethod
    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, N, C] -> [B, output_tokens(N), C]."""

    @abc.abstractmethod
    def output_tokens(self, n: int) -> int:
        """Tokens out for `n` in, protected ones not counted; a function of n only.

        In train or eval mode as the module is.

        Raises:
            RecipeError: no token would be left.
        """
