"""Tokens for compressors, and what comes out of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import RecipeError
from prunekit.testing.fault import ConformanceError, faults_of
from prunekit.testing.noise import global_noise
from prunekit.testing.snapshot import bits
from prunekit.testing.trial import TokenTrial

TOLERANCE = 1e-5
"""Where the order of a sum may change, as in a smaller batch: relative and absolute."""


def promised(compressor: DataCompressor, n: int) -> int | None:
    """`output_tokens(n)`, None where it refuses.

    Raises:
        ConformanceError: no count, or two answers.
    """
    with faults_of(f"output_tokens({n})"):
        try:
            left, again = compressor.output_tokens(n), compressor.output_tokens(n)
        except RecipeError:
            return None
    if type(left) is not int or not 1 <= left <= n:
        raise ConformanceError(f"output_tokens({n}) is {left!r}, not an int in 1 .. {n}")
    if left != again:
        raise ConformanceError(f"output_tokens({n}) is {left}, and {again} when asked again")
    return left


def random_tokens(trial: TokenTrial, seed: int = 0) -> TokenBatch:
    """Normal tokens; the sizes of the unprotected ones are 1 .. 4."""
    generator = torch.Generator().manual_seed(trial.seed + seed)
    count = trial.protected + trial.patches
    x = torch.randn(trial.samples, count, trial.width, generator=generator)
    size = torch.randint(1, 5, (trial.samples, count, 1), generator=generator).float()
    size[:, : trial.protected] = 1
    return TokenBatch(x.to(getattr(torch, trial.dtype)), size, trial.protected)


def forward(compressor: DataCompressor, tokens: TokenBatch, noise: int = 0) -> TokenBatch:
    """The result of a copy of the compressor, under the same global random state."""
    own = copy.deepcopy(compressor)
    with faults_of("forward"), global_noise("forward", noise):
        out = own(tokens)
    if not isinstance(out, TokenBatch):
        raise ConformanceError(f"forward returned {type(out).__name__}, not a TokenBatch")
    return out


def equal(first: TokenBatch, other: TokenBatch) -> bool:
    """Bit for bit."""
    pairs = zip(first[:2], other[:2], strict=True)
    return all(a.shape == b.shape and bits(a) == bits(b) for a, b in pairs)


def close(first: Tensor, other: Tensor) -> bool:
    """But for rounding."""
    if first.shape != other.shape:
        return False
    return torch.allclose(first.float(), other.float(), rtol=TOLERANCE, atol=TOLERANCE)
