"""Exactly the best entries, ties to the lowest index."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor


def keep_count(n: int, sparsity: float, min_keep: int = 0) -> int:
    """How many of `n` units are kept: n minus floor(sparsity * n + 1/2), in exact arithmetic.

    Args:
        n: units in all.
        sparsity: fraction to prune, [0, 1], read as the decimal number that it prints as.
        min_keep: units kept whatever `sparsity` says; at most n count.
    """
    prune = (Fraction(repr(float(sparsity))) * n + Fraction(1, 2)).__floor__()
    return n - max(0, min(prune, n - min(min_keep, n)))


def top_mask(score: Tensor, keep: int) -> Tensor:
    """True at exactly the `keep` highest scores; ties go to the lowest flat index.

    Args:
        score: floating point, any shape; infinities are allowed.
        keep: in 0 .. score.numel().

    Raises:
        ValueError: `score` holds a NaN, or `keep` is out of range.
    """
    return top_masks_global({"": score}, keep)[""]


def top_masks_global(
    scores: Mapping[str, Tensor], keep: int, floor: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Bool masks with exactly `keep` True in all, over one pool; ties by (name, index)."""
    names = sorted(scores)
    flat = torch.cat([scores[name].detach().reshape(-1) for name in names])
    if torch.isnan(flat).any():
        raise ValueError("a score is NaN")
    order = torch.sort(flat, descending=True, stable=True).indices
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[order[:keep]] = True
    parts = mask.split([scores[name].numel() for name in names])
    masks = {n: part.reshape(scores[n].shape) for n, part in zip(names, parts, strict=True)}
    return {name: masks[name] for name in scores}
