"""Output channels: filters and neurons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.foundation.parameters import Holder, Holders
from prunekit.pruning.structures.base import Grouped
from prunekit.pruning.structures.units import Group, Part, Units, is_transposed

BIAS_OF = {"weight": "bias", "in_proj_weight": "in_proj_bias"}


class Channel(Grouped):
    """A row of a weight [out, ..] with its bias entry and the entries of its BatchNorm.

    A pruned channel is exactly 0 behind its BatchNorm. The BatchNorm of a layer is the module
    registered right after it in the same container, if it is a BatchNorm of as many features; in
    anything but a Sequential, whose order is the order of execution, the two names must also end
    in the same number or in none (`conv1`, `bn1`). A BatchNorm elsewhere is not found, and then its
    shift survives. Rows of a classifier are classes: leave it out of the scope.
    """

    name: Literal["channel"] = "channel"

    def units(self, model: nn.Module, names: Iterable[str]) -> Units:
        """See `Structure`; a bias or norm in scope belongs to its weight if that is too."""
        holders = Holders(model)
        found = {name: holders.first(name) for name in names}
        taken: set[str] = set()
        groups: dict[str, Group] = {}
        for name, holder in sorted(found.items(), key=lambda item: len(item[1].shape) < 2):
            if name not in taken:
                first = _weight_part(name, holder)
                size = prod(first.view[axis] for axis in first.axes)
                along = [n for n in _companions(holder, size, holders) if n not in taken]
                parts = (first, *(Part(n, (size,), (size,), (0,)) for n in along))
                groups[name] = Group(size, holder.shape, parts)
                taken |= {name, *along}
        return Units(groups)


def _weight_part(name: str, holder: Holder) -> Part:
    shape = holder.shape
    if is_transposed(holder.module) and len(shape) > 1:
        groups = int(getattr(holder.module, "groups", 1))
        view = (groups, shape[0] // groups, shape[1], *shape[2:])
        return Part(name, shape, view, axes=(0, 2))
    return Part(name, shape, shape or (1,), axes=(0,))


def _companions(holder: Holder, size: int, holders: Holders) -> Iterator[str]:
    """Names of the parameters of `size` entries that go with a layer's channels."""
    if len(holder.shape) < 2:
        return
    candidates = [getattr(holder.module, BIAS_OF.get(holder.own, ""), None)]
    if holder.own == "weight" and (norm := _norm_behind(holder, holders.model)) is not None:
        candidates += [norm.weight, norm.bias]
    for parameter in candidates:
        name = holders.name_of(parameter)
        if name is not None and holders.first(name).shape == (size,):
            yield name


def _norm_behind(holder: Holder, model: nn.Module) -> _BatchNorm | None:
    container, _, own = holder.path.rpartition(".")
    parent = model.get_submodule(container)
    children = list(parent.named_children())
    place = next((i for i, (name, _) in enumerate(children) if name == own), len(children))
    for name, module in children[place + 1 : place + 2]:
        same = isinstance(parent, nn.Sequential) or _number(name) == _number(own)
        if isinstance(module, _BatchNorm) and same:
            return module
    return None


def _number(name: str) -> str:
    found = re.search(r"\d*$", name)
    return found.group() if found else ""
