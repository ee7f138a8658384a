"""Layers: products of what depends on the input with a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.facts import Fact, Facts
from prunekit.pruning.flow.labels import thin


@dataclass
class Layer:
    """A product of something that depends on the input with a weight."""

    name: str
    operand: Tensor
    weight: Fact
    right: bool
    """Whether the weight is the second factor, as in x W.T."""
    arguments: Mapping[str, Any]


def factors_of(facts: Facts, name: str, args: Any) -> tuple[Tensor, Tensor, bool] | None:
    """What may be a layer's operand and its weight, and whether the weight is the second factor.

    None for an operation that is no product.
    """
    if name in ops.CONVOLUTIONS:
        return args[0], args[1], True
    if name not in ops.FACTORS:
        return None
    left, right = (args[at] for at in ops.FACTORS[name])
    second = facts.get(right)
    if facts.is_dynamic(left) or facts.is_dynamic(right):
        is_right = facts.is_dynamic(left)
    else:
        is_right = second is not None and second.columns is not None
    return (left, right, True) if is_right else (right, left, False)


def columns_read(layer: Layer) -> tuple[Tensor | None, int]:
    """The columns of the weight, and the axis of the operand along which they read it.

    None for the weight of a grouped convolution, or what is no matrix.
    """
    columns, given = layer.weight.columns, layer.arguments
    assert columns is not None
    if layer.name in ops.CONVOLUTIONS:
        if given["groups"] > 1:
            return None, 1
        columns = columns.transpose(0, 1) if given["transposed"] else columns
        return thin(columns).flatten(2).amax((0, 2)), 1
    if columns.dim() < 2:
        return None, 0
    axis = -1 if layer.right else -2  # of the operand, and of what the weight sums into
    size = layer.operand.shape[axis]
    return thin(columns).amax(axis).reshape(-1, size)[0], axis
