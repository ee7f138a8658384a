"""Exactly the best entries, ties to the lowest index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from prunekit.foundation.warn import warn_once
from prunekit.pruning.pools import HostPool
from prunekit.pruning.scores import Cut, Scores, count_each, sizes_of
from prunekit.pruning.search import Asked, Found, cut_all, pool_of

NEAR_RANK = 0.0025
"""Share of the entries by which a count may differ so that its threshold is still a hint: at 90 %
of normal weights, the magnitude changes by 1 % then."""


def keep_count(n: int, sparsity: float, min_keep: int = 0) -> int:
    """How many of `n` units are kept: n - floor(sparsity * n + 1/2), in exact arithmetic.

    Args:
        n: units in all.
        sparsity: fraction to prune, read as the decimal number that it prints as, so that 0.29 of
            50 is 14.5 and not a little less; values outside [0, 1] count as the nearest end.
        min_keep: units kept whatever `sparsity` says; at most n count.
    """
    prune = (Fraction(repr(float(sparsity))) * n + Fraction(1, 2)).__floor__()
    return n - max(0, min(prune, n - min(min_keep, n)))


def top_mask(score: Tensor, keep: int) -> Tensor:
    """True at exactly the `keep` highest scores; ties go to the lowest flat index.

    Args:
        score: floating point, any shape; infinities are allowed, -0.0 equals 0.0.
        keep: in 0 .. score.numel().

    Raises:
        ValueError: `score` holds a NaN or whole numbers, or `keep` is out of range.
    """
    return top_masks([("score", score, keep)])["score"]


def top_masks(asked: Iterable[tuple[str, Tensor, int]]) -> dict[str, Tensor]:
    """`top_mask` of each tensor; where they are on a device, the host waits once for all.

    Args:
        asked: name, score and True entries of each; see `top_mask`. They are taken in turn: on the
            CPU no score is held any longer than its mask takes.

    Raises:
        ValueError: see `top_mask`.
    """
    masks, waiting = dict[str, Tensor](), dict[str, Asked]()
    for name, score, keep in asked:
        if not 0 <= keep <= score.numel():
            raise ValueError(f"{name}: keep {keep} is not in 0 .. {score.numel()}")
        one = Asked(pool_of([score]), keep)
        masks[name] = score
        if isinstance(one.pool, HostPool):
            masks[name] = _masks([one])[0].flat[0].view(score.shape)
        else:
            waiting[name] = one
    for name, made in zip(waiting, _masks([*waiting.values()]), strict=True):
        masks[name] = made.flat[0].view(masks[name].shape)
    return masks


def top_masks_global(
    scores: Mapping[str, Tensor], keep: int, floor: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Bool masks with exactly `keep` True in all: the highest of one pool; ties by (name, index).

    Args:
        scores: name -> floating point tensor of any shape, all on one device.
        keep: from the sum of the floors to the number of entries.
        floor: name -> entries that the tensor keeps at least, whatever the others score; a tensor
            below its floor is raised to it, and the others give up as many.

    Raises:
        ValueError: a score is NaN or not floating point, or infinite among `Scores` that are
            `unseen`, or `keep` is out of range.
    """
    scores, sizes = Scores.of(scores), sizes_of(scores)
    floor = {name: min(n, sizes[name]) for name, n in (floor or {}).items() if n}
    least, most = sum(floor.values()), sum(sizes.values())
    if not least <= keep <= most:
        raise ValueError(f"keep {keep} is not in {least} .. {most}: the floors, and all entries")
    masks, held = _best_of_pool(scores, keep), dict[str, Tensor]()
    while low := _below(floor, masks):
        held |= top_masks((name, scores[name], floor[name]) for name in low)
        rest = {name: tensor for name, tensor in scores.tensors.items() if name not in held}
        fewer = keep - sum(floor[name] for name in held)
        masks = _best_of_pool(Scores(rest, scores.key), fewer)
    warn_held(held)
    masks |= held
    return {name: masks[name] for name in scores}


def _below(floor: Mapping[str, int], masks: Mapping[str, Tensor]) -> list[str]:
    names = [name for name in floor if name in masks]
    kept = count_each(masks[name] for name in names)
    return [name for name, count in zip(names, kept, strict=True) if count < floor[name]]


def warn_held(names: Iterable[str]) -> None:
    """Say which tensors `min_keep` holds above what the distribution gives them."""
    if line := ", ".join(sorted(names)):
        warn_once(f"min_keep holds, else these would keep fewer units: {line}")


def _best_of_pool(scores: Scores, keep: int) -> dict[str, Tensor]:
    names = sorted(scores)
    if not names:
        return {}
    pool = pool_of([scores.tensors[name] for name in names], scores.key)
    if isinstance(pool, HostPool):
        pool.unseen = scores.unseen
    (made,) = _masks([Asked(pool, keep, _hint(scores.cut, keep, pool.size))])
    if isinstance(pool, HostPool):
        pool.look()
        scores.unseen = False
    if made.edge is not None:
        scores.cut = Cut(keep, made.edge)
    shapes = [scores.tensors[name].shape for name in names]
    return {n: m.view(shape) for n, m, shape in zip(names, made.flat, shapes, strict=True)}


class _Made(NamedTuple):
    flat: list[Tensor]
    """A mask of each tensor of a pool."""
    edge: float | None
    """Where it was cut; None where all or none are kept."""


def _masks(asked: Sequence[Asked]) -> list[_Made]:
    return [_mask(one, cut) for one, cut in zip(asked, cut_all(asked), strict=True)]


def _mask(one: Asked, cut: Found | None) -> _Made:
    pool = one.pool
    if cut is None:
        return _Made([torch.full_like(f, one.keep > 0, dtype=torch.bool) for f in pool.flat], None)
    masks, surplus = pool.at_least(cut.value), cut.surplus
    if surplus is None:
        surplus = sum(count_each(masks)) - one.keep
    if surplus:
        pool.drop_last_ties(masks, cut.value, surplus)
    return _Made(masks, cut.value)


def _hint(cut: Cut | None, keep: int, size: int) -> float | None:
    """The last threshold, unless so much more or less is kept now that it must have moved."""
    return cut.threshold if cut and abs(keep - cut.keep) <= NEAR_RANK * size else None
