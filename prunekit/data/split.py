"""Stratified parts of a set: functions of the labels and the sizes alone, never of the run's seed.

So runs with different seeds train, validate and test on the same samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.foundation.seeding import seed_for


def generator(*where: int | str) -> torch.Generator:
    """A CPU generator for the draws of one place, as `seed_for` names it."""
    return torch.Generator().manual_seed(seed_for(*where))


def rank_in_class(labels: Tensor) -> Tensor:
    """How many samples of its class stand before each sample.

    Args:
        labels: int64 [N].

    Returns:
        int64 [N].
    """
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return ranks


def stratified(labels: Tensor, total: int, spare: int = 0) -> Tensor:
    """Choose exactly `total` samples, the classes in proportion (Sainte-Lague divisors).

    Each class has a sample among them where `total` is at least the number of classes. A smaller
    choice is a part of a larger one.

    Args:
        labels: int64 [N], on the CPU.
        total: 0 .. N, and no more than `spare` allows.
        spare: leave at least this many samples of each class unchosen.

    Returns:
        bool [N], True = chosen.

    Raises:
        ValueError: `spare` leaves fewer than `total` to choose from.
    """
    order = torch.randperm(len(labels), generator=generator("stratified"))
    shuffled = labels[order]
    ranks, sizes = rank_in_class(shuffled), torch.bincount(labels)[shuffled]
    free = ranks < sizes - spare
    if total > int(free.sum()):
        raise ValueError(f"{total} of {len(labels)} samples leave a class without any")
    price = (ranks + 0.5).double() / sizes - (ranks == 0).double()  # the first of each class first
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[torch.argsort(price.where(free, torch.inf), stable=True)[:total]]] = True
    return chosen


def evenly(labels: Tensor, order: Tensor, total: int) -> Tensor:
    """The first `total` samples of an order when classes take turns: as equal as classes are large.

    Args:
        labels: int64 [N].
        order: int64 [N], a permutation.
        total: 0 .. N.

    Returns:
        int64 [total], indices.
    """
    return order[torch.argsort(rank_in_class(labels[order]), stable=True)[:total]]
