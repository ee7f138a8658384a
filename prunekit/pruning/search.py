"""The exact threshold of a rank, in one pool or in many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunekit.pruning.device_pool import Bound, DevicePool
from prunekit.pruning.pools import HostPool
from prunekit.pruning.scores import Key

Pool = HostPool | DevicePool

WHOLE = 1 << 15
"""Entries of a pool that is searched without a bracket."""
PER_SAMPLE, SAMPLES = 128, 1 << 14
"""One entry in so many is drawn to guess a bracket, at most so many in all."""
SPREADS = (3.0, 32.0)
"""Half-widths of the brackets tried, in standard deviations of the rank in the sample."""
NEAR = 0.01
"""Half-width of the bracket around a hint, as a part of the hint."""
MOST_INSIDE = 16
"""One entry in so many may lie in a bracket; else, as with many equal ones, the next is tried."""


class Found(NamedTuple):
    """Where a pool is cut."""

    value: float
    """The lowest score that is kept."""
    surplus: int | None
    """Entries >= value beside those to keep; None: not counted."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A rank in a pool."""

    pool: Pool
    keep: int
    """0 .. the size of the pool."""
    hint: float | None = None
    """A value that should be near, such as the last update's threshold."""


def pool_of(tensors: Sequence[Tensor], key: Key | None = None) -> Pool:
    """The pool for the device that `tensors` are on."""
    on_host = all(tensor.device.type == "cpu" for tensor in tensors)
    return (HostPool if on_host else DevicePool)(tensors, key)


def find_threshold(
    scores: Sequence[Tensor], keep: int, hint: float | None = None, key: Key | None = None
) -> float:
    """The `keep`-th largest of all entries of `scores`.

    A bracket around it comes from `hint` or from a sample. One pass counts what lies above and
    collects the little that lies inside. A bracket that misses costs a pass, never the exactness.
    Extra memory is a block and the inside: less than 0.5 byte an entry.

    Args:
        scores: floating point tensors of any shapes, on one device.
        keep: rank, in 1 .. the number of entries.
        hint: a value that should be near, such as the last update's threshold.
        key: makes the entries from those of `scores`, a block at a time.

    Raises:
        ValueError: an entry is NaN or not floating point, or there is no such rank.
    """
    pool = pool_of(scores, key)
    if not 1 <= keep <= pool.size:
        raise ValueError(f"rank {keep} is not in 1 .. {pool.size}")
    return search(pool, keep, hint)


def search(pool: Pool, keep: int, hint: float | None = None) -> float:
    """`find_threshold` in a pool."""
    if isinstance(pool, HostPool):
        return _on_host(pool, keep, hint)
    return _on_device({0: (pool, keep, _brackets(pool, keep, hint))})[0].value


def cut_all(asked: Sequence[Asked]) -> list[Found | None]:
    """Where each pool is cut; None where it keeps all or nothing. The host waits for all at once.

    Raises:
        ValueError: an entry is NaN.
    """
    found: list[Found | None] = []
    searches, whole = Searches(), list[DevicePool]()
    for i, (pool, keep, hint) in enumerate((one.pool, one.keep, one.hint) for one in asked):
        found.append(_cut_on_host(pool, keep, hint) if isinstance(pool, HostPool) else None)
        if isinstance(pool, DevicePool) and 0 < keep < pool.size:
            searches[i] = pool, keep, _brackets(pool, keep, hint)
        elif isinstance(pool, DevicePool):
            whole.append(pool)
    for i, cut in _on_device(searches, whole).items():
        found[i] = cut
    return found


def _cut_on_host(pool: HostPool, keep: int, hint: float | None) -> Found | None:
    if 0 < keep < pool.size:
        return Found(_on_host(pool, keep, hint), None)
    if any(bool(np.isnan(block).any()) for block in pool.blocks()):
        raise ValueError(NAN)
    return None


NAN = "a score is NaN"


def _on_host(pool: HostPool, keep: int, hint: float | None) -> float:
    for low, high in _brackets(pool, keep, hint):
        low, high = float(low), float(high)
        value = _between(pool, keep, low, high)
        if value is not None:
            return value
        for edge in {low, high}:  # where many entries are equal, it may be an edge itself
            over, at = pool.count(edge)
            if over < keep <= over + at:
                return edge
    raise AssertionError("the last bracket holds every value")


def _between(pool: HostPool, keep: int, low: float, high: float) -> float | None:
    """The value of the rank, if it lies between and not too many do."""
    found = pool.split(low, high, _most(pool, low, high))
    if found is None:
        return None
    above, inside = found
    if torch.isnan(inside).any():
        raise ValueError(NAN)
    return pool.largest(inside, keep - above) if above < keep <= above + len(inside) else None


Searches = dict[int, tuple[DevicePool, int, Iterator[tuple[Bound, Bound]]]]


def _on_device(searches: Searches, whole: Sequence[DevicePool] = ()) -> dict[int, Found]:
    """The next bracket of every search that goes on, and one read for all of them.

    Raises:
        ValueError: an entry is NaN, also in the pools `whole`, which keep all or nothing.
    """
    found: dict[int, Found] = {}
    while len(found) < len(searches) or whole:
        told = [pool.only_nan() for pool in whole]
        left = {i: search for i, search in searches.items() if i not in found}
        for pool, keep, brackets in left.values():
            low, high = next(brackets)
            told.append(pool.look(keep, low, high, _most(pool, low, high)))
        lists = torch.stack(told).tolist()
        if any(nan for _, _, nan, _ in lists):
            raise ValueError(NAN)
        for (i, (pool, _, _)), one in zip(left.items(), lists[len(whole) :], strict=True):
            verdict = pool.verdict(one)
            if verdict.value is not None:
                found[i] = Found(verdict.value, verdict.surplus)
        whole = ()
    return found


def _most(pool: Pool, low: Bound, high: Bound) -> int:
    """How many entries may lie in a bracket."""
    everything = isinstance(low, float) and low == -math.inf and high == math.inf
    return pool.size if everything else max(WHOLE, pool.size // MOST_INSIDE)


def _brackets(pool: Pool, keep: int, hint: float | None) -> Iterator[tuple[Bound, Bound]]:
    """Pairs low <= high to look between, ever wider; the last holds every value."""
    if hint:
        reach = NEAR * abs(hint)
        yield pool.rounded(hint - reach), pool.rounded(hint + reach)
    if pool.size > WHOLE:
        drawn = min(SAMPLES, pool.size // PER_SAMPLE)
        sample, share = pool.sample(drawn), 1 - keep / pool.size
        for spread in SPREADS:
            reach = spread * (share * (1 - share) / drawn) ** 0.5 + 2 / drawn
            first, last = (int(drawn * (share + side)) for side in (-reach, reach))
            low = sample[first] if first > 0 else -math.inf
            yield low, sample[last] if last < drawn else math.inf
    yield -math.inf, math.inf
