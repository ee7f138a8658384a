"""One forward pass, watched operation by operation: which elements come from which weights.

Each floating-point tensor that matters has labels: a tensor of its shape that says of each element
where it comes from. Operations that only move elements are repeated on the labels, so any reshape,
window, shuffle or concatenation is followed exactly; what the others do, subclasses say. Parameters
are recognised by identity.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from prunekit.pruning.flow import operations as ops
from prunekit.pruning.flow.facts import Fact, Facts, Origin
from prunekit.pruning.flow.labels import FREE, NONE, filled, thin
from prunekit.pruning.flow.layers import Layer, factors_of
from prunekit.pruning.flow.static import reduced, static_labels
from prunekit.pruning.flow.values import Values


class FlowWatch(TorchDispatchMode, abc.ABC):
    """Follow one forward pass.

    Args:
        values: of the parameters.
        operands: of the layers in an earlier pass, in their order: each layer reads these instead
            of its own, so that it is tried by itself. None: they are recorded.
    """

    def __init__(self, values: Values, operands: Sequence[Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values, self.numbers, self.facts = values, values.numbers, Facts()
        self.given, self.operands = operands, list[Tensor]()
        self.fits_operands = False
        """Whether a linear layer that gets another number of features is given what it takes: for
        inputs whose size is guessed, where layers are looked at one by one."""
        self.unknown: set[str] = set()
        """Operations on the way of which nothing is known."""
        self._noise = torch.Generator().manual_seed(0)

    def enter(self, inputs: Sequence[Tensor]) -> None:
        """Take the inputs of the model for what the rest depends on."""
        for one in inputs:
            self.facts.write(one, filled(one, NONE), dynamic=True)

    def noise_like(self, tensor: Tensor, *shape: int) -> Tensor:
        """Fresh random values in a tensor's shape, or in another one."""
        drawn = torch.randn(shape or tensor.shape, generator=self._noise)
        return drawn.to(tensor.device, tensor.dtype)

    # ---- what a subclass says; labels come and go in the shape of their tensor

    @abc.abstractmethod
    def merge(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """Labels of what reads all elements along `axes`, which are kept with length 1."""

    @abc.abstractmethod
    def pointwise(self, func: OpOverload, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        """Labels of an operation element by element, one of whose arguments is dynamic."""

    @abc.abstractmethod
    def layer(self, layer: Layer, out: Tensor) -> Tensor:
        """Labels of what a layer gives."""

    @abc.abstractmethod
    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Labels of a matrix product of two dynamic factors; they end in 1, and in 1 before the
        last axis."""

    @abc.abstractmethod
    def norm(self, name: str, given: Mapping[str, Any], labels: Tensor) -> Tensor:
        """Labels of what a normalisation gives."""

    @abc.abstractmethod
    def added(self, labels: Tensor, bias: Tensor) -> Tensor:
        """Labels after the bias of a layer, which broadcasts, is added."""

    @abc.abstractmethod
    def lost(self, name: str, facts: Sequence[Fact]) -> float:
        """The one label of all that an unknown operation gives."""

    def softened(self, labels: Tensor) -> Tensor:
        """Labels of an operation that does not leave zeros zero."""
        return labels

    def seen(self, name: str, out: Tensor, fact: Fact) -> None:
        """A labelled tensor came out."""

    def compare(self, layer: Layer, operand: Tensor) -> None:
        """What reaches a layer may differ from what reached it in the earlier pass."""

    # ---- following

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map(self._stand_in, (args, kwargs or {}))
        name = ops.short_name(func)
        layer = self._layer(name, func, args, kwargs)
        if layer is not None and (operand := self._other_operand(layer)) is not None:
            same = operand.shape == layer.operand.shape
            labels = self.facts.labels_of(layer.operand) if same else filled(operand, NONE)
            self.facts.write(operand, labels, dynamic=True)
            args = tuple(operand if one is layer.operand else one for one in args)
            layer = self._layer(name, func, args, kwargs)
        if layer is not None:
            self.operands.append(layer.operand)
        same = name == "as_strided" and ops.keeps_places(*args[:3])
        out = func(*args, **kwargs)
        if same and (fact := self.facts.get(args[0])) is not None:
            self.facts.put(out, fact)
        else:
            self._follow(name, func, args, kwargs, out, layer)
        return out

    def _stand_in(self, value: Any) -> Any:
        """Random values for a parameter."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        name = self.numbers.holders.name_of(value)
        if name is None:
            return value
        made = self.values.of(name)
        columns = self.numbers.columns(name)
        columns = None if columns is None else columns.to(made.device)
        self.facts.put(
            made, Fact(self.numbers.labels(name).to(made.device), Origin(False), columns)
        )
        return made

    def _layer(self, name: str, func: OpOverload, args: Any, kwargs: Any) -> Layer | None:
        """The layer that a call is; None for anything else."""
        factors = factors_of(self.facts, name, args)
        if factors is None:
            return None
        operand, weight, right = factors
        fact = self.facts.get(weight)
        if fact is None or fact.origin.dynamic or not self.is_operand(operand):
            return None
        given = ops.arguments(func, args, kwargs)
        return Layer(name, operand, fact, right, given) if self.is_layer(fact) else None

    def is_layer(self, weight: Fact) -> bool:
        """Whether a factor without input is a layer's weight."""
        return weight.columns is not None and bool(self.rows(thin(weight.labels)).any())

    def is_operand(self, value: Tensor) -> bool:
        """Whether what a factor is multiplied with makes the product a layer's."""
        return self.facts.is_dynamic(value)

    def rows(self, labels: Tensor) -> Tensor:
        """Where a label is that of a row of a matrix."""
        return (labels > 0) & (labels < self.numbers.rows_end)

    def _other_operand(self, layer: Layer) -> Tensor | None:
        """What a layer is to read instead; None: what it got."""
        if self.given is not None:
            given = self.given[len(self.operands)]
            self.compare(layer, given)
            return given
        weight = layer.arguments.get("mat2")
        if not self.fits_operands or not layer.right or weight is None or weight.dim() < 2:
            return None
        features = weight.shape[-2]
        if layer.operand.shape[-1] == features:
            return None
        return self.noise_like(layer.operand, *layer.operand.shape[:-1], features)

    def _follow(
        self, name: str, func: OpOverload, args: Any, kwargs: Any, out: Any, layer: Layer | None
    ) -> None:
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        leaves = tree_leaves((args, kwargs))
        if name in ops.ZEROS | ops.FACTORIES:
            for one in outs:
                self.facts.write(
                    one, filled(one, FREE if name in ops.ZEROS else NONE), dynamic=False
                )
        elif not outs or all(self.facts.get(leaf) is None for leaf in leaves):
            return
        elif name == "copy" and func._schema.is_mutable:
            self.facts.overwrite(args[0], args[1])
        elif name in ops.MOVING or (func.is_view and name not in ops.NOT_FOLLOWED):
            if not self.facts.move(name, func, args, kwargs, out):
                self._note(name, leaves, outs, None)
        elif layer is not None:
            self._note(name, leaves, outs, self._biased(layer, outs[0]))
        elif any(map(self.facts.is_dynamic, leaves)):
            self._note(name, leaves, outs, self._dynamic(name, func, args, kwargs, outs[0]))
        else:
            found = static_labels(self.facts, self.numbers.rows_end, func, args, kwargs, outs[0])
            labels, columns = found or (filled(outs[0], NONE), None)
            self.facts.write(outs[0], labels, dynamic=False, columns=columns)

    def _note(
        self, name: str, leaves: Sequence[Any], outs: Sequence[Tensor], labels: Tensor | None
    ) -> None:
        """Note what came out of an operation on something dynamic."""
        if labels is None:
            found = [fact for fact in map(self.facts.get, leaves) if fact is not None]
            self.unknown.add(name)
            label = self.lost(name, [fact for fact in found if fact.origin.dynamic])
        for one in outs[:1] if name in ops.NORMS else outs:  # a norm gives its statistics, too
            fitting = filled(one, label) if labels is None else labels
            if one is outs[0] or one.shape == fitting.shape:
                fact = self.facts.write(one, fitting, dynamic=True)
                if fact is not None:
                    self.seen(name, one, fact)

    # ---- operations with something dynamic

    def _biased(self, layer: Layer, out: Tensor) -> Tensor:
        """Labels of what a layer gives, its bias added."""
        labels, given = self.layer(layer, out), layer.arguments
        bias = given["bias"] if layer.name in ops.CONVOLUTIONS else None
        if bias is not None:
            thin_bias = bias.reshape(1, -1, *[1] * (out.dim() - 2))
            reshaped = self.facts.labels_of(bias).reshape(thin_bias.shape)
            self.facts.put(thin_bias, Fact(reshaped, Origin(self.facts.is_dynamic(bias))))
            return self.added(labels, thin_bias)
        return self.added(labels, given["self"]) if layer.name in ops.SUMS_OF_PRODUCTS else labels

    def _dynamic(
        self, name: str, func: OpOverload, args: Any, kwargs: Any, out: Tensor
    ) -> Tensor | None:
        """Labels of what an operation gives; None where they are not known."""
        labels = self.facts.labels_of(args[0]) if isinstance(args[0], Tensor) else filled(out, NONE)
        if name in ops.FACTORS:
            return self._product(name, args, out)
        if name in ops.CONVOLUTIONS:
            return self._fixed_convolution(ops.arguments(func, args, kwargs), out)
        if name in ops.NORMS:
            return self.norm(name, ops.arguments(func, args, kwargs), labels)
        if name in ops.SPATIAL:
            axes = range(labels.dim() - ops.spatial_axes(name), labels.dim())
            return self.merge(labels, axes).expand(out.shape)
        if name in ops.REDUCTIONS:
            return reduced(self.merge, labels, func, args, kwargs).reshape(out.shape)
        if name in ops.SOFTMAXES:
            return self.softened(self.merge(labels, [args[1] % labels.dim()]).expand(labels.shape))
        return self.pointwise(func, args, kwargs, out) if ops.is_pointwise(name, func) else None

    def _product(self, name: str, args: Any, out: Tensor) -> Tensor | None:
        """A matrix product without a layer's weight: of two dynamic factors, or with a constant."""
        left, right = (args[at] for at in ops.FACTORS[name])
        if left.dim() < 2 or right.dim() < 2:
            return None
        parts = []
        if self.facts.is_dynamic(left):
            parts.append(self.merge(self.facts.labels_of(left), [left.dim() - 1]))
        if self.facts.is_dynamic(right):
            parts.append(self.merge(self.facts.labels_of(right), [right.dim() - 2]))
        labels = (parts[0] if len(parts) == 1 else self.product(*parts)).expand(out.shape)
        return self.added(labels, args[0]) if name in ops.SUMS_OF_PRODUCTS else labels

    def _fixed_convolution(self, given: Mapping[str, Any], out: Tensor) -> Tensor | None:
        """A depthwise convolution whose weight is no parameter: a blur."""
        x, weight = given["input"], given["weight"]
        apart = given["groups"] == x.shape[1] == out.shape[1]
        if self.facts.is_dynamic(weight) or not apart or given.get("bias") is not None:
            return None
        labels = self.facts.labels_of(x)
        return self.merge(labels, range(2, labels.dim())).expand(out.shape)
