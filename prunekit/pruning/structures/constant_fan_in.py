"""As many inputs for each neuron of a layer, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Holder, Holders
from prunekit.foundation.transfer import read
from prunekit.pruning.counts import count_entries
from prunekit.pruning.distributions import Demand, Distribution
from prunekit.pruning.structures.base import Structure
from prunekit.pruning.structures.units import Units
from prunekit.pruning.structures.unstructured import entries


class ConstantFanIn(Structure):
    """Each row of a weight [out, inputs, ..], a neuron or filter, keeps as many entries.

    Which ones is its own matter, so a layer packs into a matrix [out, k] and one of places, without
    the freedom within a row being lost. k is the same for all rows of a layer, at least 1. A unit
    is an entry. The layers' k are those next to the counts of the distribution that in all keep no
    less than is asked: fewer than the rows of one layer more stay.
    """

    paper: ClassVar[str] = "arXiv:2305.02299"
    exact: ClassVar[bool] = False
    name: Literal["constant_fan_in"] = "constant_fan_in"

    @property
    def unit_name(self) -> str:
        """Single entries."""
        return "entries"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """Single entries; see `Structure`."""
        names, holders = tuple(names), Holders(model)
        rows_of(holders, names)
        return entries(holders, names)

    def count(self, model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
        """Entries kept, and entries in all."""
        return count_entries(masks)

    def select(
        self, model: nn.Module, demand: Demand, distribution: Distribution
    ) -> dict[str, Tensor]:
        """The k highest of each row, ties to the lowest index; see `Structure`."""
        scores, rows = demand.scores, rows_of(Holders(model), demand.scores)
        if not demand.finite and any(read([torch.isnan(s).any() for s in scores.values()])):
            raise ValueError("a score is NaN")
        fans = fan_ins(rows, demand, distribution)
        return {
            name: one.back(top_of_rows(one.matrix(scores[name]), fans[name]))
            for name, one in rows.items()
        }


class Rows(NamedTuple):
    """How a weight lies as a matrix [rows, inputs], one row an output."""

    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]
    """Of `view`, those that number the rows."""

    @property
    def number(self) -> int:
        """How many there are."""
        return prod(self.view[axis] for axis in self.axes)

    @property
    def fan_in(self) -> int:
        """Entries of a row."""
        return prod(self.shape) // self.number

    def matrix(self, tensor: Tensor) -> Tensor:
        """[rows, inputs], from the shape of the weight."""
        front = tuple(range(len(self.axes)))
        return tensor.reshape(self.view).movedim(self.axes, front).reshape(self.number, self.fan_in)

    def back(self, matrix: Tensor) -> Tensor:
        """The shape of the weight, from [rows, inputs]."""
        rest = [n for axis, n in enumerate(self.view) if axis not in self.axes]
        front = tuple(range(len(self.axes)))
        moved = matrix.reshape(*(self.view[axis] for axis in self.axes), *rest)
        return moved.movedim(front, self.axes).reshape(self.shape).contiguous()


def rows_of(holders: Holders, names: Iterable[str]) -> dict[str, Rows]:
    """Parameter -> its rows.

    Raises:
        RecipeError: one has a single entry for each output.
    """
    found: dict[str, Holder] = {name: holders.first(name) for name in names}
    flat = [name for name, holder in found.items() if len(holder.shape) < 2]
    if flat:
        raise RecipeError(
            f"structure constant_fan_in: {flat[0]} has no inputs: leave out such parameters by "
            f"scope.exclude: [{', '.join(flat)}]"
        )
    return {name: Rows(holder.shape, *holder.rows) for name, holder in found.items()}


def fan_ins(rows: Mapping[str, Rows], demand: Demand, distribution: Distribution) -> dict[str, int]:
    """Entries that each row of a weight keeps.

    Each is the number next to what the distribution gives the layer of some total, the smallest
    for which no less stays than is asked. That total grows with what is asked and the distribution
    is nested: so a higher sparsity gives no row more.
    """
    total, keep = sum(demand.sizes.values()), demand.keep
    if keep == total:
        return {name: one.fan_in for name, one in rows.items()}

    def rounded(of: int) -> dict[str, int]:
        """Name -> entries a row keeps where `of` are asked for in all."""
        counts = distribution.keep_counts(replace(demand, sparsity=1 - of / total, min_keep=0))
        return {n: _nearest(counts[n], one, demand.min_keep) for n, one in rows.items()}

    def enough(of: int) -> bool:
        """Whether no less stays then than is asked."""
        return (
            sum(one.number * k for one, k in zip(rows.values(), rounded(of).values(), strict=True))
            >= keep
        )

    spread = sum(one.number for one in rows.values())  # a total differs by less, floors left aside
    few, many = max(0, keep - spread), min(total, keep + spread)
    few, many = 0 if enough(few) else few, many if enough(many) else total
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle + 1, many)
    return rounded(few)


def _nearest(count: int, rows: Rows, min_keep: int) -> int:
    """The k next to `count` entries of a layer; of two, the smaller."""
    least = max(1, -(-min_keep // rows.number))
    k = -((rows.number - 2 * count) // (2 * rows.number))
    return min(rows.fan_in, max(least, k))


def top_of_rows(score: Tensor, keep: int | Tensor) -> Tensor:
    """True at the highest of each row, ties to the lowest index.

    Args:
        score: [rows, inputs].
        keep: how many of each row, or [rows].
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    places = torch.empty_like(order).scatter_(1, order, place)
    return places < (keep.unsqueeze(1) if isinstance(keep, Tensor) else keep)
