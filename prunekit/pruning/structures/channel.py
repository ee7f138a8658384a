"""Output channels: filters and neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import WEIGHTED, Holder, Holders
from prunekit.foundation.values import NewKey
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.flow import Channels, channels
from prunekit.pruning.multiples import Multiples
from prunekit.pruning.selection import keep_count, top_masks, warn_held
from prunekit.pruning.structures.base import Grouped
from prunekit.pruning.structures.units import Group, Part, Units, row_part

BIAS_OF = {"weight": "bias", "in_proj_weight": "in_proj_bias"}


class Channel(Grouped):
    """A row of a weight [out, ..] with its bias entry and the entries of the norms behind it.

    A pruned channel is exactly 0 behind its layer and behind each norm that it feeds alone. Which
    norms these are is found from a forward pass, wherever they stand: right behind the layer,
    behind an activation or pool, or behind a concatenation, where the channel has a place among
    others. Where channels are summed with others they end: 0 is added. Statistics over several
    channels (GroupNorm, LayerNorm) are taken with the 0. A layer whose channels would not be 0 is
    refused by name. Rows of a classifier are classes: leave it out of the scope.
    """

    name: Literal["channel"] = "channel"
    round_to: Annotated[int, Field(ge=1), NewKey(3, before=1)] = 1
    """Each tensor keeps a multiple of so many channels, at least one multiple; smaller than two,
    it stays whole. 16 suits convolutions whose pruned channels are to be removed."""

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`; a bias or norm in scope belongs to its weight if that is too."""
        holders = Holders(model)
        found = {name: holders.first(name) for name in names}
        known = channels(model) if any(len(h.shape) > 1 for h in found.values()) else Channels()
        _check(found, known, holders)
        taken: set[str] = set()
        groups: dict[str, Group] = {}
        for name, holder in sorted(found.items(), key=lambda item: len(item[1].shape) < 2):
            if name not in taken:
                first = row_part(name, holder)
                size = _rows(holder)
                along = _along(name, holder, known, holders)
                parts = (_vector_part(n, at, size, holders) for n, at in along.items())
                groups[name] = Group(size, holder.shape, (first, *parts))
                taken |= {name, *along}
        return Units(groups)

    def multiples(self, model: nn.Module, names: Iterable[str], min_keep: int) -> Multiples | None:
        """See `Structure`; as `round_to` has them."""
        if self.round_to == 1:
            return None
        return Multiples.of(self.units(model, names).sizes, self.round_to, min_keep)

    def best(self, demand: Demand, distribution: Distribution) -> dict[str, Tensor]:
        """See `Grouped`; the best of the counts that `round_to` leaves."""
        if self.round_to == 1:
            return distribution.select(demand)
        counts = _rounded(demand, distribution, self.round_to)
        return top_masks((name, score, counts[name]) for name, score in demand.scores.items())


def _rounded(demand: Demand, distribution: Distribution, step: int) -> dict[str, int]:
    """Channels to keep of each tensor; says where `min_keep` holds."""
    multiples = Multiples.of(demand.sizes, step, demand.min_keep)
    total = multiples.total

    def split(keep: int) -> Mapping[str, int]:
        return distribution.keep_counts(replace(demand, sparsity=1 - keep / total, min_keep=0))

    keep = keep_count(total, demand.sparsity)
    counts = multiples.counts(split, keep)
    if demand.min_keep > step:
        free = Multiples.of(demand.sizes, step).counts(split, keep)
        warn_held(name for name in counts if counts[name] > free[name])
    return counts


def _rows(holder: Holder) -> int:
    view, axes = holder.rows
    size = 1
    for axis in axes:
        size *= view[axis]
    return size


def _along(
    name: str, holder: Holder, known: Channels, holders: Holders
) -> Mapping[str, Sequence[int]]:
    """What goes with a weight's rows: vector -> the row of each entry."""
    if name in known.reached:
        return known.along.get(name, {})
    size, own = _rows(holder), getattr(holder.module, BIAS_OF.get(holder.own, ""), None)
    bias = holders.name_of(own) if len(holder.shape) > 1 else None
    if bias is None or holders.first(bias).shape != (size,):
        return {}
    return {bias: range(size)}


def _vector_part(name: str, rows: Sequence[int], size: int, holders: Holders) -> Part:
    shape = holders.first(name).shape
    if tuple(rows) == tuple(range(size)):
        return Part(name, shape, (size,), axes=(0,))
    return Part(name, shape, (len(rows),), axes=(0,), units=tuple(rows), size=size)


# ---- what is refused


def _check(found: Mapping[str, Holder], known: Channels, holders: Holders) -> None:
    """Make sure that a pruned channel of the weights in scope is 0.

    Raises:
        RecipeError: it is not, or that is not known; names the layers.
    """
    reasons = {name: reason for name, reason in known.refused.items() if name in found}
    if reasons:
        name, reason = next(iter(reasons.items()))
        raise RecipeError(
            f"structure channel: a pruned channel of {name} would not be 0: it {reason}: leave out "
            f"such layers by scope.exclude: [{', '.join(reasons)}]"
        )
    if not found.keys() <= known.reached:
        unknown = [
            name
            for name, holder in found.items()
            if name not in known.reached and _may_feed_a_norm(name, holder, holders)
        ]
        if unknown:
            raise RecipeError(
                f"structure channel: which norm reads the channels of {unknown[0]} is not known, "
                f"as {_why(known)}"
            )


def _why(known: Channels) -> str:
    if known.untraced:
        return (
            f"{known.untraced}: give the Pruner input_shape=, or leave out such layers by "
            "scope.exclude"
        )
    return "no layer multiplies by it as it is in evaluation: leave it out by scope.exclude"


def _may_feed_a_norm(name: str, holder: Holder, holders: Holders) -> bool:
    """Whether the model has a vector of as many entries that is no layer's bias."""
    if len(holder.shape) < 2 or not WEIGHTED & holder.classes:
        return False
    size = _rows(holder)
    for places in holders.places.values():
        one = places[0]
        layer = bool((WEIGHTED | {"MultiheadAttention"}) & one.classes)
        if one.shape == (size,) and not (layer and one.own in BIAS_OF.values()):
            return True
    return False
