"""Which entries of which parameters make one unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.foundation.devices import as_float64
from prunekit.foundation.parameters import Holder
from prunekit.foundation.transfer import send


@dataclass(frozen=True, slots=True)
class Part:
    """The entries of one parameter, numbered by unit.

    The parameter, reshaped to `matrix` and padded with zeros, is looked at as `view`; its axes
    `axes` number the units, and all entries along the other axes belong together.
    """

    name: str
    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]
    matrix: tuple[int, int] | None = None
    """[rows, columns] before padding; None where nothing is padded."""
    units: tuple[int, ...] | None = None
    """The unit of each position along the one axis in `axes`, -1 where it is of none; None: the
    positions along `axes` are the units."""
    size: int = 0
    """How many units there are, where `units` says which."""

    def sums(self, entries: Tensor) -> Tensor:
        """The sum over each unit, float64 [units]."""
        if self.units is not None:
            lines = as_float64(entries).reshape(self.view).movedim(self.axes[0], 0)
            where = send(torch.tensor(self.units), lines.device)
            found = lines.new_zeros(self.size + 1)  # the last is for those of no unit
            sums = lines.reshape(len(lines), -1).sum(1)
            return found.index_add_(0, where % (self.size + 1), sums)[:-1]
        if self.matrix is not None:
            (rows, columns), (down, right) = self.matrix, self._padded()
            entries = F.pad(entries.reshape(self.matrix), (0, right - columns, 0, down - rows))
        folded = as_float64(entries).reshape(self.view)
        rest = tuple(axis for axis in range(len(self.view)) if axis not in self.axes)
        return (folded.sum(rest) if rest else folded).flatten()

    def spread(self, kept: Tensor) -> Tensor:
        """The mask of the parameter, from bool [units]; what is of no unit is kept."""
        if self.units is not None:
            where = send(torch.tensor(self.units), kept.device)
            kept = torch.cat((kept, kept.new_ones(1)))[where]
        thin = [n if axis in self.axes else 1 for axis, n in enumerate(self.view)]
        mask = kept.reshape(thin).expand(self.view)
        if self.matrix is not None:
            rows, columns = self.matrix
            mask = mask.reshape(self._padded())[:rows, :columns]
        return mask.reshape(self.shape).contiguous()

    @property
    def is_ragged(self) -> bool:
        """Whether units may have different numbers of its entries."""
        return self.matrix is not None or self.units is not None

    def _padded(self) -> tuple[int, int]:
        """[rows, columns] after padding, of which the view is [rows / r, r, columns / c, c]."""
        down, r, across, c = self.view
        return down * r, across * c


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one kind: unit i is entry set i of each part together."""

    size: int
    """Units."""
    shape: tuple[int, ...]
    """Shape of the weight that the group is named for."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Units:
    """All units of a scope, grouped; a group is named for its first weight."""

    groups: Mapping[str, Group]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have a part in a unit."""
        names = (part.name for group in self.groups.values() for part in group.parts)
        return tuple(dict.fromkeys(names))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Group -> shape of its weight."""
        return {name: group.shape for name, group in self.groups.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Group -> units."""
        return {name: group.size for name, group in self.groups.items()}

    def pool(self, scores: Mapping[str, Tensor], power: int) -> dict[str, Tensor]:
        """One score a unit: the mean over its scored entries, of powers that keep the sign.

        Args:
            scores: parameter -> score of each entry; parts without one do not count.
            power: 1: mean of s. 2: root of the mean of s|s|, which for scores >= 0 is their L2
                norm over the root of their number. So -inf stays -inf, and order inside a tensor
                is that of the norm.

        Returns:
            group -> float64 [units].
        """
        return {name: _pooled(group, scores, power) for name, group in self.groups.items()}

    def expand(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of all parameters with a part, from group -> bool [units]."""
        masks: dict[str, Tensor] = {}
        for name, group in self.groups.items():
            for part in group.parts:
                mask = part.spread(kept[name])
                other = masks.get(part.name)  # a parameter may hold entries of several groups
                masks[part.name] = mask if other is None else other & mask
        return masks

    def collapse(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Group -> bool [units]: whether any entry of the unit is kept in `masks`."""
        return {
            name: torch.stack([p.sums(masks[p.name]) for p in group.parts if p.name in masks])
            .sum(0)
            .gt(0)
            for name, group in self.groups.items()
        }


def _pooled(group: Group, scores: Mapping[str, Tensor], power: int) -> Tensor:
    parts = [part for part in group.parts if part.name in scores]
    wide = [as_float64(scores[part.name]) for part in parts]
    sums = [p.sums(s * s.abs() if power == 2 else s) for p, s in zip(parts, wide, strict=True)]
    counts = [
        p.sums(torch.ones_like(s)) if p.is_ragged else prod(p.shape) / group.size
        for p, s in zip(parts, wide, strict=True)
    ]
    mean = torch.stack(sums).sum(0) / sum(counts)
    return mean.sign() * mean.abs().sqrt() if power == 2 else mean


def row_part(name: str, holder: Holder) -> Part:
    """The rows of a weight [out, ..], or of the outputs of a transposed convolution."""
    view, axes = holder.rows
    return Part(name, holder.shape, view, axes)
