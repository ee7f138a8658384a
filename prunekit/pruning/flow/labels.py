"""Labels: a tensor beside each tensor, that says of each element where it comes from; float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NONE = 0.0
"""Label of what comes from several places, or from none of the weights."""
FREE = float("inf")
"""Label of zeros that nothing made: padding."""
LOST = -FREE
"""Label of what comes out of an operation that is not known."""

BASE = 2**26
"""More than there are numbers: two of them fit into the 53 bits of a float64's integers."""


def filled(tensor: Tensor, label: float) -> Tensor:
    """One label for all elements of a tensor, which may be written to."""
    return torch.full(tensor.shape, label, dtype=torch.float64, device=tensor.device)


def unlabelled(tensor: Tensor) -> Tensor:
    """`NONE` in the shape of a tensor, without its memory."""
    return torch.full((), NONE, dtype=torch.float64, device=tensor.device).expand(tensor.shape)


def has_number(labels: Tensor) -> Tensor:
    """Where there is a row or entry, of either sign."""
    return (labels != NONE) & labels.isfinite()


def thin(labels: Tensor) -> Tensor:
    """Axes along which labels are repeated without memory, at length 1."""
    for axis, (n, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if n > 1 and stride == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def thinnest(labels: Tensor) -> Tensor:
    """Axes along which all labels are the same, at length 1."""
    for axis in range(labels.dim()):
        first = labels.narrow(axis, 0, 1) if labels.shape[axis] > 1 else labels
        if first.shape != labels.shape and bool((labels == first).all()):
            labels = first
    return labels


def without_axes(labels: Tensor, axes: Sequence[int]) -> list[int]:
    """The shape with length 1 along the axes."""
    return [1 if axis in axes else n for axis, n in enumerate(labels.shape)]


def uniform(labels: Tensor, axes: Sequence[int]) -> Tensor:
    """The label that all elements along `axes` have, zeros of padding apart; else `NONE`.

    Where one has a minus, the result has; where one is `LOST`, it is.
    """
    axes = list(axes)
    full = without_axes(labels, axes)
    if 0 in labels.shape:
        return labels.new_full(full, NONE)
    if not axes:
        return labels
    labels = thin(labels)
    size = labels.abs()
    high = size.masked_fill(labels == FREE, -1.0).amax(axes, keepdim=True)
    low = size.masked_fill(labels == LOST, -1.0).amin(axes, keepdim=True)
    sign = torch.where((labels < 0).any(dim=axes, keepdim=True), -1.0, 1.0)
    found = torch.where(high == low, high * sign, NONE)
    found = torch.where(high == -1, FREE, found)
    return torch.where((labels == LOST).any(dim=axes, keepdim=True), LOST, found).expand(full)


def broadcast_shape(left: Tensor, right: Tensor) -> torch.Size:
    """The shape that two tensors have together."""
    shape: torch.Size = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return shape


def distinct(labels: Tensor) -> list[float]:
    """The labels that there are, ascending."""
    found: list[float] = torch.unique(labels).tolist()
    return found


def numbers(labels: Tensor) -> set[int]:
    """The rows or entries that there are, without signs."""
    return {int(label) for label in distinct(labels[has_number(labels)].abs())}


def pairs(left: Tensor, right: Tensor) -> list[tuple[int, int]]:
    """The pairs of labels that stand beside one another; both positive, of one shape."""
    return [divmod(int(key), BASE) for key in distinct(left * BASE + right)]
