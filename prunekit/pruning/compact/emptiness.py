"""Which rows, columns and entries of a model are 0 once its masks are applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunekit.errors import UsageError
from prunekit.foundation.parameters import Holders
from prunekit.foundation.suggestions import did_you_mean
from prunekit.pruning.flow import AttentionHeads
from prunekit.pruning.flow.removable import Place, RowUnit


def by_first_name(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks by the first names of their parameters, as a tied one has several.

    Raises:
        UsageError: the model has no such parameter, or it has another shape or is not bool.
    """
    named, holders = dict(model.named_parameters(remove_duplicate=False)), Holders(model)
    found: dict[str, Tensor] = {}
    for name, mask in masks.items():
        if name not in named:
            raise UsageError(
                f"masks: the model has no parameter {name!r}.{did_you_mean(name, named)}"
            )
        if mask.dtype != torch.bool or mask.shape != named[name].shape:
            raise UsageError(
                f"masks: that of {name} is {mask.dtype} of {tuple(mask.shape)}, not bool of "
                f"{tuple(named[name].shape)}"
            )
        found[str(holders.name_of(named[name]))] = mask.to(named[name].device)
    return found


class Empty:
    """Zeros of a masked model, looked up by row, column and entry.

    Args:
        model: the plain module.
        masks: parameter -> bool, True = kept; by first names.
        along: weight -> bias, scale or shift -> the row of each of its entries.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        along: Mapping[str, Mapping[str, Sequence[int]]],
    ) -> None:
        self._holders, self._masks, self._along = Holders(model), masks, along
        self._rows: dict[str, list[bool]] = {}
        self._columns: dict[str, list[bool]] = {}

    def _zero(self, name: str) -> Tensor:
        values = self._holders.first(name).parameter.detach() == 0
        return values | ~self._masks[name] if name in self._masks else values

    def _lines(self, name: str, axis: int) -> list[bool]:
        """Whether all is 0 at each place along an axis."""
        found: list[bool] = self._zero(name).movedim(axis, 0).flatten(1).all(1).tolist()
        return found

    def entries(self, name: str) -> list[bool]:
        """Of each entry of a vector."""
        found: list[bool] = self._zero(name).flatten().tolist()
        return found

    def column(self, place: Place) -> bool:
        """Whether nothing is read there."""
        return _kept(self._columns, place[0], lambda name: self._lines(name, 1))[place[1]]

    def row(self, place: Place) -> bool:
        """Whether a row gives 0: itself, and what goes along with it."""
        return _kept(self._rows, place[0], self._empty_rows)[place[1]]

    def _empty_rows(self, name: str) -> list[bool]:
        found = self._lines(name, 0)
        for vector, rows in self._along.get(name, {}).items():
            for row, zero in zip(rows, self.entries(vector), strict=True):
                if row >= 0 and not zero:
                    found[row] = False
        return found

    def unit(self, unit: RowUnit) -> bool:
        """Whether all that is read of a unit is 0, or multiplied by 0."""
        return all(
            self.column(column)
            or (column not in unit.constants and all(any(map(self.row, p)) for p in products))
            for column, products in unit.columns.items()
        )

    def heads(self, attention: AttentionHeads) -> list[int]:
        """The heads whose rows, with their biases, are 0, or whose columns are."""
        inside = [True] * attention.heads
        for name, heads in attention.rows.items():
            vector = self._holders.first(name).parameter.dim() < 2
            for head, zero in zip(
                heads, self.entries(name) if vector else self._lines(name, 0), strict=True
            ):
                if head >= 0 and not zero:
                    inside[head] = False
        outside = [True] * attention.heads
        for name, heads in attention.columns.items():
            for head, zero in zip(heads, self._lines(name, 1), strict=True):
                if head >= 0 and not zero:
                    outside[head] = False
        return [head for head in range(attention.heads) if inside[head] or outside[head]]


def _kept(found: dict[str, list[bool]], name: str, look: Callable[[str], list[bool]]) -> list[bool]:
    if name not in found:
        found[name] = look(name)
    return found[name]
