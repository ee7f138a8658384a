"""What the operations of a forward pass take of the parameters, and whether as they are.

Data flow is followed below autograd and modules, by storage: a view has the storage of its
parameter, and what an operation makes has one of its own. So it does not matter which layer
multiplies, nor through which function. Everything is either of the input ("data") or of parameters
and constants alone; a tensor of the second kind is an operand where an operation takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from prunekit.foundation.devices import as_float64
from prunekit.foundation.modules import one_forward

aten = torch.ops.aten
PRODUCTS: dict[Any, tuple[int, int]] = {
    aten.mm: (0, 1),
    aten.addmm: (1, 2),
    aten.bmm: (0, 1),
    aten.baddbmm: (1, 2),
    aten.convolution: (0, 1),
    aten._convolution: (0, 1),
    aten.cudnn_convolution: (0, 1),
}
"""What multiplies and adds, with the places of its two factors."""
MOVES = {
    *(aten.clone, aten._to_copy, aten.copy_, aten.copy, aten.contiguous, aten.lift_fresh),
    *(aten.cat, aten.stack, aten.repeat, aten.roll, aten.flip, aten.constant_pad_nd),
    *(aten.index, aten.index_select, aten.gather, aten.embedding, aten.detach, aten.alias),
}
"""What makes a new tensor of the same entries; views have the storage of what they show."""
CENTRED = 1e-3
"""Largest mean of a standardised row, over the root of the mean of its squares."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor without data in it that an operation takes."""

    names: frozenset[str]
    """The watched parameters that it comes from."""
    as_is: bool
    """Whether it is made of their entries as they are: views, copies, casts."""
    meets_data: bool
    """Whether the operation takes something of the input beside it."""
    entries: int
    zeros: int | None
    """Of a factor. None: it is none, or it is computed and there are no values (meta)."""
    macs: int | None
    """Multiply-adds of the operation for the whole batch; None where it is no product."""
    centred: bool
    """Whether each row has mean 0, as weight standardisation leaves it; only where computed."""


@dataclass(frozen=True, slots=True)
class _Flow:
    data: bool = False
    names: frozenset[str] = frozenset()
    as_is: bool = True


_CONSTANT = _Flow()


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operands of what runs inside; nested tensors and the like are not followed.

    Args:
        model: whose parameters are watched.
        pruned: parameter name -> bool of its shape, True = pruned: of those that are watched. Their
            zeros are counted by it, so no values are needed for what is used as it is.
        inputs: what the model is given; tensors in it are data.
        values: whether zeros of what is computed can be counted: not on the meta device.
    """

    def __init__(
        self, model: nn.Module, pruned: Mapping[str, Tensor], inputs: Any, *, values: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = dict(model.named_parameters(remove_duplicate=False))
        self.operands: list[Operand] = []
        self._values = values
        self._watched = {name: (named[name], entries) for name, entries in pruned.items()}
        self._home: dict[int, list[str]] = {}  # several may share one storage
        for name, (parameter, _) in self._watched.items():
            self._home.setdefault(_storage(parameter), []).append(name)
        self._flows: dict[int, _Flow] = {}
        self._held: list[StorageWeakRef] = []  # so that no later storage has the place of one
        for tensor in _tensors(inputs):
            self._set(tensor, _Flow(data=True))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        taken = [(tensor, self._flow_of(tensor)) for tensor in _tensors((args, kwargs))]
        packet = func.overloadpacket
        data = any(flow.data for _, flow in taken)
        for tensor, flow in taken:
            if flow.names and not flow.data:
                self._note(tensor, flow, packet, data, (args, kwargs, out))
        names = frozenset[str]().union(*(flow.names for _, flow in taken))
        as_is = packet in MOVES and all(flow.as_is for _, flow in taken)
        made = _Flow(data, frozenset() if data else names, as_is or not names)
        sources = {_storage(tensor) for tensor, _ in taken}
        for tensor in (*_tensors(out), *_written(func, args, kwargs)):
            key = _storage(tensor)
            if key not in self._home and (key not in sources or func._schema.is_mutable):
                self._set(tensor, made)
        return out

    # ---- inside

    def _set(self, tensor: Tensor, flow: _Flow) -> None:
        key = _storage(tensor)
        if key and key not in self._flows:
            storage = tensor.untyped_storage()
            self._held.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        self._flows[key] = flow

    def _flow_of(self, tensor: Tensor) -> _Flow:
        key = _storage(tensor)
        if key not in self._home:
            return self._flows.get(key, _CONSTANT) if key else _CONSTANT
        return _Flow(names=frozenset({self._name_in(key, tensor)}))

    def _name_in(self, key: int, tensor: Tensor) -> str:
        """The last parameter of a storage that begins where the tensor does, or before."""
        place = tensor.storage_offset()
        before = [n for n in self._home[key] if self._watched[n][0].storage_offset() <= place]
        return max(
            before or self._home[key], key=lambda name: self._watched[name][0].storage_offset()
        )

    def _note(
        self,
        tensor: Tensor,
        flow: _Flow,
        packet: Any,
        data: bool,
        call: tuple[Sequence[Any], Mapping[str, Any], Any],
    ) -> None:
        args, kwargs, out = call
        factors = [args[i] for i in PRODUCTS.get(packet, ()) if i < len(args)]
        factor = any(tensor is one for one in factors)
        if not (data or factor):
            return  # one step on the way to a weight
        count = flop_registry.get(packet) if factor else None
        macs = int(count(*args, **kwargs, out_val=out)) // 2 if count else None
        zeros = self._zeros(tensor, flow) if data or factor else None
        centred = self._values and not flow.as_is and _is_centred(tensor)
        self.operands.append(
            Operand(
                names=flow.names,
                as_is=flow.as_is,
                meets_data=data,
                entries=tensor.numel(),
                zeros=zeros,
                macs=macs if factor else None,
                centred=centred,
            )
        )

    def _zeros(self, tensor: Tensor, flow: _Flow) -> int | None:
        if not flow.as_is:
            return int((tensor == 0).sum()) if self._values else None
        key = _storage(tensor)
        if key in self._home:
            return self._zeros_of_view(tensor, self._name_in(key, tensor))
        watched = [self._watched[name] for name in flow.names]
        pruned = sum(int(entries.sum()) for _, entries in watched)
        return round(tensor.numel() * pruned / max(1, sum(p.numel() for p, _ in watched)))

    def _zeros_of_view(self, view: Tensor, name: str) -> int:
        """The pruned entries that a view shows: the same view of the mask, laid out alike."""
        parameter, pruned = self._watched[name]
        if view.numel() == parameter.numel():
            return int(pruned.sum())
        laid = torch.empty_strided(parameter.size(), parameter.stride(), dtype=torch.bool)
        laid.copy_(pruned)
        start = view.storage_offset() - parameter.storage_offset()
        return int(laid.as_strided(view.size(), view.stride(), start).sum())


def operands(
    model: nn.Module, pruned: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Operand]:
    """The operands of one evaluated batch; the model, its buffers and all randomness stay.

    Args:
        model: on its device, with W*M in its parameters.
        pruned: see `Trace`.
        args: what the model is given.
        kwargs: likewise by name.
    """
    watch = Trace(model, pruned, (args, kwargs), values=True)
    with one_forward(model), watch:
        model(*args, **kwargs)
    return watch.operands


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    """What tells one storage from another while both live; 0 for a tensor that has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested, opaque
        return 0


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """What an operation writes into, in place or as `out`."""
    if not func._schema.is_mutable:
        return []
    given = [
        args[i] if i < len(args) else kwargs.get(one.name)
        for i, one in enumerate(func._schema.arguments)
        if one.is_write
    ]
    return _tensors(given)


def _is_centred(tensor: Tensor) -> bool:
    if tensor.ndim < 2 or not tensor.is_floating_point() or not tensor.numel():
        return False
    rows = as_float64(tensor.detach().flatten(1))
    # the weight of a linear layer is turned when it is multiplied
    return _has_centred_rows(rows) or (tensor.ndim == 2 and _has_centred_rows(rows.t()))


def _has_centred_rows(rows: Tensor) -> bool:
    size = rows.square().mean(1).sqrt()
    centred = bool((rows.mean(1).abs() <= CENTRED * size).all())
    return rows.shape[1] > 1 and centred and bool(size.any())


def zero_macs(found: Sequence[Operand]) -> int | None:
    """Multiply-adds of a batch that zeros take part in; None where values would be needed."""
    total = 0
    for one in found:
        if one.macs is not None:
            if one.zeros is None:
                return None
            total += one.macs * one.zeros // max(1, one.entries)
    return total
