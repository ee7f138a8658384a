"""Tokens to be tried, and how two results are compared."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import Tensor

from prunekit.compressors.base import (
    CLASS_ATTENTION,
    DEPTH,
    KEYS,
    Depth,
    TokenBatch,
)
from prunekit.testing.cases import TokenTrial
from prunekit.testing.snapshot import bits

TOLERANCE = 1e-5
"""Where the order of a sum may change, as in a smaller batch: relative and absolute."""


def random_tokens(trial: TokenTrial, reads: Set[str] = frozenset(), seed: int = 0) -> TokenBatch:
    """Normal tokens and keys; the sizes of the unprotected ones are 1 .. 4.

    What is not in `reads` is not there.
    """
    generator = torch.Generator().manual_seed(trial.seed + seed)
    count = trial.protected + trial.patches
    x = torch.randn(trial.samples, count, trial.width, generator=generator)
    size = torch.randint(1, 5, (trial.samples, count, 1), generator=generator).float()
    size[:, : trial.protected] = 1
    dtype = getattr(torch, trial.dtype)
    keys = torch.randn(trial.samples, count, 3, generator=generator).to(dtype)
    attention = torch.randn(trial.samples, count, generator=generator).softmax(-1)
    return TokenBatch(
        x.to(dtype),
        size,
        trial.protected,
        keys=keys if KEYS in reads else None,
        class_attention=attention if CLASS_ATTENTION in reads else None,
        depth=Depth(1, 4) if DEPTH in reads else None,
    )


def of_each(tokens: TokenBatch, change: Callable[[Tensor], Tensor]) -> TokenBatch:
    """The tokens, each of their tensors changed."""
    keys, attention = (
        None if values is None else change(values)
        for values in (tokens.keys, tokens.class_attention)
    )
    x, size = change(tokens.x), change(tokens.size)
    return TokenBatch(x, size, tokens.protected, keys, attention, tokens.depth)


def equal(first: TokenBatch, other: TokenBatch) -> bool:
    """Bit for bit."""
    pairs = zip(first[:2], other[:2], strict=True)
    return all(a.shape == b.shape and bits(a) == bits(b) for a, b in pairs)


def close(first: Tensor, other: Tensor) -> bool:
    """But for rounding."""
    if first.shape != other.shape:
        return False
    return torch.allclose(first.float(), other.float(), rtol=TOLERANCE, atol=TOLERANCE)
