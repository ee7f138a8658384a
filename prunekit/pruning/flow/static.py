"""Labels of what is made of parameters alone: a standardised weight, a bias put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.facts import Facts
from prunekit.pruning.flow.labels import NONE, filled, uniform


def static_labels(
    facts: Facts, rows_end: int, func: OpOverload, args: Any, kwargs: Any, out: Tensor
) -> tuple[Tensor, Tensor | None] | None:
    """The row that all of an element is of, and its column; None where that is not known.

    Args:
        facts: of the arguments.
        rows_end: the first label that is no row's.
        func: the operation, which moves no elements.
        args: its arguments.
        kwargs: its arguments by name.
        out: what it gave, or the first of it.
    """
    name = ops.short_name(func)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if name in ops.FACTORS:
        left, right = (args[at] for at in ops.FACTORS[name])
        if min(left.dim(), right.dim()) < 2:
            return None
        return uniform(facts.labels_of(left), [left.dim() - 1]).expand(out.shape), None
    if name in ops.BATCH_NORMS:
        labels = facts.labels_of(args[0])
        axes = [axis for axis in range(labels.dim()) if axis != 1]
        return uniform(labels, axes).expand(labels.shape), _columns(facts, tensors, out)
    if name in ops.REDUCTIONS:
        labels = reduced(uniform, facts.labels_of(args[0]), func, args, kwargs)
        return labels.reshape(out.shape), None
    if ops.is_pointwise(name, func):
        return _joined(facts, rows_end, tensors, out), _columns(facts, tensors, out)
    return None


def reduced(
    merge: Callable[[Tensor, Sequence[int]], Tensor],
    labels: Tensor,
    func: OpOverload,
    args: Any,
    kwargs: Any,
) -> Tensor:
    """Labels of a sum, mean, maximum, ..: `merge`d along the axes that the call names."""
    axes = ops.arguments(func, args, kwargs).get("dim")
    axes = list(range(labels.dim())) if axes is None or axes == [] else axes
    axes = [axes] if isinstance(axes, int) else axes
    return merge(labels, [axis % max(1, labels.dim()) for axis in axes])


def _columns(facts: Facts, tensors: Sequence[Tensor], out: Tensor) -> Tensor | None:
    """A matrix keeps its columns where it keeps its shape."""
    for tensor in tensors:
        fact = facts.get(tensor)
        if fact is not None and fact.columns is not None and fact.columns.shape == out.shape:
            return fact.columns
    return None


def _joined(facts: Facts, rows_end: int, tensors: Sequence[Tensor], out: Tensor) -> Tensor:
    """The row of what is put together; vectors join a row, two rows have no label."""
    found = filled(out, NONE)
    for tensor in tensors:
        labels = facts.labels_of(tensor).expand(out.shape)
        rows = (found != NONE) & (found < rows_end), (labels != NONE) & (labels < rows_end)
        clash = rows[0] & rows[1] & (found != labels)
        joined = torch.where(labels == NONE, found, torch.minimum(found, labels))
        found = torch.where(found == NONE, labels, joined)
        found = found.masked_fill(clash, NONE)
    return found
