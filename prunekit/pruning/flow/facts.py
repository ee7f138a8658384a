"""What is known of the tensors of a forward pass, and how it moves with their elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.labels import FREE, NONE, filled, unlabelled


@dataclass
class Origin:
    """What a tensor shares with its views."""

    dynamic: bool
    """Whether it depends on the input of the model, and not on its parameters alone."""


@dataclass
class Fact:
    """What is known of a tensor."""

    labels: Tensor
    """Of the tensor's shape."""
    origin: Origin
    columns: Tensor | None = None
    """Of what a matrix was made into: the column of each entry."""
    blank: bool = False
    """Whether all labels are `NONE`; they take no memory then."""


class Facts:
    """Facts by tensor, for as long as the tensor lives. Tensors without one are constants."""

    def __init__(self) -> None:
        self._facts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def get(self, value: Any) -> Fact | None:
        """What is known of a value; None for a constant, or for what is no tensor."""
        if not isinstance(value, Tensor):
            return None
        fact: Fact | None = self._facts.get(value)  # type: ignore[no-untyped-call]
        return fact

    def is_dynamic(self, value: Any) -> bool:
        """Whether a value depends on the input."""
        fact = self.get(value)
        return fact is not None and fact.origin.dynamic

    def labels_of(self, value: Tensor) -> Tensor:
        """The labels of a tensor, which may be a constant."""
        fact = self.get(value)
        return unlabelled(value) if fact is None else fact.labels

    def put(self, tensor: Tensor, fact: Fact) -> None:
        """Note a fact as it is."""
        self._facts[tensor] = fact

    def write(
        self, out: Tensor, labels: Tensor, *, dynamic: bool, columns: Tensor | None = None
    ) -> Fact | None:
        """Note labels, which broadcast, of what an operation gave; None if it is not of floats.

        What was written in place is known already, and so are its views: they share the labels.
        """
        if not out.is_floating_point():
            return None
        old, empty = self.get(out), dynamic and not bool((labels != NONE).any())
        if old is None or old.blank != empty:
            labels = unlabelled(out) if empty else labels.expand(out.shape).clone()
            old = Fact(labels, Origin(dynamic), columns, empty)
            self.put(out, old)
        elif not empty:
            old.labels.copy_(labels.expand(out.shape).clone())
            old.columns = columns
        old.origin.dynamic = dynamic
        return old

    # ---- moves

    def move(self, name: str, func: OpOverload, args: Any, kwargs: Any, out: Any) -> bool:
        """Do with the labels what was done with the elements; False where they cannot be."""
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        leaves = tree_leaves((args, kwargs))
        dynamic, source = any(map(self.is_dynamic, leaves)), self.get(args[0])
        view = source is not None and (func.is_view or name == "view")
        origin = source.origin if source is not None and view else Origin(dynamic)
        if source is not None and source.blank and name not in ops.WRITES:
            for one in (t for t in outs if t.is_floating_point()):
                self.put(one, Fact(unlabelled(one), origin, blank=True))
            return True
        try:
            moved = _moved(name, func, args, kwargs, lambda t: self._label(t, dynamic))
            columns = None if dynamic else _moved(name, func, args, kwargs, self._column)
        except (RuntimeError, NotImplementedError, TypeError, IndexError):  # not made for labels
            return False
        labels = [t for t in tree_leaves(moved) if isinstance(t, Tensor)]
        places = [t for t in tree_leaves(columns) if isinstance(t, Tensor)]
        for one, label, place in zip_longest(outs, labels, places):
            if one.is_floating_point() and label.shape == one.shape:
                self.put(one, Fact(label, origin, place))
        return True

    def overwrite(self, target: Tensor, source: Tensor) -> None:
        """`target.copy_(source)` was done."""
        if not target.is_floating_point():
            return
        dynamic = self.is_dynamic(source) or self.is_dynamic(target)
        fact = self.get(target)
        if fact is None or fact.blank:
            origin = Origin(dynamic) if fact is None else fact.origin
            fact = Fact(filled(target, NONE), origin)
            self.put(target, fact)
        if source.is_floating_point():
            fact.labels.copy_(self._label(source, dynamic).expand(target.shape))
        fact.origin.dynamic = dynamic

    def _label(self, value: Any, dynamic: bool) -> Any:
        """In place of an argument, its labels; places and numbers stay."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        labels = self.labels_of(value)
        if dynamic and not self.is_dynamic(value):  # a parameter among what the input gave
            return torch.where(labels == FREE, FREE, NONE)
        return labels

    def _column(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        fact = self.get(value)
        return unlabelled(value) if fact is None or fact.columns is None else fact.columns


def _moved(name: str, func: OpOverload, args: Any, kwargs: Any, label: Callable[[Any], Any]) -> Any:
    if name in ops.COPIES:
        made = label(args[0])
        return made if func.is_view else made.clone()
    if name in ops.RESHAPES:
        return label(args[0]).reshape(args[1])
    if name == "constant_pad_nd":
        value = args[2] if len(args) > 2 else kwargs.get("value", 0)
        return torch.nn.functional.pad(label(args[0]), args[1], value=NONE if value else FREE)
    return func(*tree_map(label, args), **tree_map(label, kwargs))
