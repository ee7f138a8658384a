"""Attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Holders
from prunekit.pruning.flow import AttentionHeads, Heads, heads
from prunekit.pruning.structures.base import Grouped
from prunekit.pruning.structures.units import Group, Part, Units


class Head(Grouped):
    """A head's rows of the query, key and value projections, and its columns of the output one.

    The rows' bias entries go along; the output bias is no head's. Which rows and columns are one
    head is found from a forward pass, whatever they are called and however they lie: rows whose
    products meet in attention, and the columns that read what comes of it. Heads that are not
    apart, as those that are mixed before the output projection, are refused by name. The scope
    names only such weights: `*.attn.qkv.weight`, `*.in_proj_weight`.
    """

    name: Literal["head"] = "head"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`; one of the weights of an attention in scope brings all of them."""
        holders, names = Holders(model), tuple(names)
        known = heads(model, [n for n in names if len(holders.first(n).shape) > 1])
        groups: dict[str, Group] = {}
        left = set(names)
        for attention in known.attentions:
            covered = {*attention.rows, *attention.columns}
            if left & covered:
                parts = tuple(_parts(attention, holders))
                groups[parts[0].name] = Group(attention.heads, parts[0].shape, parts)
                left -= covered
        if left:
            one = next(name for name in names if name in left)
            raise RecipeError(_message(one, len(left) - 1, known))
        return Units(groups)


def _parts(attention: AttentionHeads, holders: Holders) -> Iterator[Part]:
    """The parts of an attention: input weights, their biases, the output weight."""
    for name, heads_of in attention.rows.items():
        view, axes = holders.first(name).rows
        yield _part(name, holders.first(name).shape, view, axes, heads_of, attention.heads)
    for name, heads_of in attention.columns.items():
        holder = holders.first(name)
        axis = 0 if holder.is_transposed else 1
        yield _part(name, holder.shape, holder.shape, (axis,), heads_of, attention.heads)


def _part(
    name: str,
    shape: tuple[int, ...],
    view: tuple[int, ...],
    axes: tuple[int, ...],
    heads_of: Sequence[int],
    count: int,
) -> Part:
    """The heads along an axis; where they lie in equal runs, as the view that says so."""
    axis = axes[0]
    before, rest = view[:axis], view[axis + 1 :]
    for stacked in range(1, len(heads_of) // count + 1):  # queries, keys, values
        width, odd = divmod(len(heads_of), stacked * count)
        if not odd:
            run = [head for head in range(count) for _ in range(width)]
            if list(heads_of) == run * stacked:
                if len(before) == 0 or stacked > 1:
                    return Part(name, shape, (*before, stacked, count, width, *rest), (axis + 1,))
                return Part(name, shape, (*before, count, width, *rest), (axis,))
    return Part(name, shape, view, axes, units=tuple(heads_of), size=count)


def _message(name: str, others: int, known: Heads) -> str:
    """Why a weight has no heads, and the scope to write."""
    if name in known.refused:
        return (
            f"structure head: {name} has no heads that stand apart: {known.refused[name]}: leave "
            "it out by scope.exclude, or choose another structure"
        )
    names = [next(iter(attention.rows)) for attention in known.attentions]
    if not names and known.untraced:
        return (
            f"structure head: the heads of {name} are not known, as {known.untraced}: give the "
            "Pruner input_shape=, or choose another structure"
        )
    remedy = (
        f"name only theirs in scope.include, as {', '.join(names[:2])}"
        if names
        else "this model has none: choose another structure"
    )
    who = f"{name}, and {others} more in scope, belong" if others else f"{name} belongs"
    return f"structure head: {who} to no head of a known attention: {remedy}"
