"""Copies of modules whose weights are not those of a start, for trials."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.models.dry_pass import unwatched

NOISE = 0.02
"""Standard deviation of what is added to weights."""


def shaken(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy in float64 on the CPU with noise on its weights, parts replaced as `memo` says."""
    replaced = {id(part) for key in list(memo) for part in _below(module, key)}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in replaced:
            memo[id(tensor)] = _shaken_tensor(tensor)
    return unwatched(copy.deepcopy(module, memo))


def _below(module: nn.Module, key: int) -> Iterator[Tensor]:
    for part in module.modules():
        if id(part) == key:
            yield from part.parameters()
            yield from part.buffers()


def _shaken_tensor(tensor: Tensor) -> Tensor:
    values = torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach()
    values = values.to("cpu", copy=True)
    if not values.is_floating_point():
        return values
    values = values.double()
    if isinstance(tensor, nn.Parameter):
        values = nn.Parameter(values + NOISE * torch.randn_like(values))
    return values
