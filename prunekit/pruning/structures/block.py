"""Rectangles of a weight matrix."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Literal

from pydantic import Field
from torch import nn

from prunekit.foundation.parameters import Holders
from prunekit.pruning.structures.base import Grouped
from prunekit.pruning.structures.units import Group, Part, Units


class Block(Grouped):
    """Rectangles of `rows` x `columns` of the weight as a matrix [out, everything else].

    What remains at the right and lower edge, where the sides do not divide, makes smaller blocks.
    """

    name: Literal["block"] = "block"
    rows: int = Field(default=4, ge=1)
    """Outputs in a block."""
    columns: int = Field(default=4, ge=1)
    """Inputs in a block; of a convolution's, in the order in, kh, kw."""

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`."""
        holders = Holders(model)
        return Units({name: self._group(name, holders.first(name).shape) for name in names})

    def _group(self, name: str, shape: tuple[int, ...]) -> Group:
        rows, columns = prod(shape[:1]), prod(shape[1:])
        down, across = -(-rows // self.rows), -(-columns // self.columns)
        view = (down, self.rows, across, self.columns)
        part = Part(name, shape, view, axes=(0, 2), matrix=(rows, columns))
        return Group(down * across, shape, (part,))
