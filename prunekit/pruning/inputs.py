"""How large what each weight multiplies is, over a batch: below modules, by data flow."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.foundation.modules import called_with, one_forward

aten = torch.ops.aten


class Products(TorchDispatchMode, abc.ABC):  # type: ignore[no-untyped-call]
    """Sees each product that one of some weights is a factor of, below modules.

    A layer need not be known: what multiplies a view of a parameter is found by its storage. A
    weight that is computed first, as by `weight_norm`, is not seen.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self._home: dict[int, list[str]] = {}
        for name, weight in weights.items():
            self._home.setdefault(_storage(weight), []).append(name)

    @abc.abstractmethod
    def saw(self, name: str, start: int, packet: Any, args: Any, own: int, out: Tensor) -> None:
        """A view of a weight was a factor.

        Args:
            name: of the weight.
            start: of the view in the weight's storage, from the weight's own start.
            packet: the operation, one of `FACTORS`.
            args: what it was called with.
            own: the place of the view among these; `other_factor` has that of the other.
            out: what came out.
        """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        first = FACTORS.get(packet)
        if first is not None:
            for own in (first, first + 1):
                for name in self._home.get(_storage(args[own]), ()):
                    weight = self.weights[name]
                    start = args[own].storage_offset() - weight.storage_offset()
                    if 0 <= start < weight.numel():  # else of another one in the same storage
                        self.saw(name, start, packet, args, own, out)
        return out


def other_factor(packet: Any, own: int) -> int:
    """The place of the factor that stands beside the one at `own`."""
    return 2 * FACTORS[packet] + 1 - own


class _Squares(Products):  # type: ignore[no-untyped-call]
    """Adds up, at the place of each entry of a weight, the squares of what it is multiplied by."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def saw(self, name: str, start: int, packet: Any, args: Any, own: int, out: Tensor) -> None:
        """Add what was found for a view of a parameter where that view has its entries."""
        view = args[own]
        shown = self.sums[name].as_strided(view.size(), view.stride(), start)
        shown += _squares(packet, args, own, other_factor(packet, own), out)


FACTORS: dict[Any, int] = {
    aten.mm: 0,
    aten.addmm: 1,
    aten.bmm: 0,
    aten.baddbmm: 1,
    aten.convolution: 0,
}
"""Products, with the place of the first of their two factors."""


def _squares(packet: Any, args: Any, own: int, other: int, out: Tensor) -> Tensor:
    """Sums of squares of a factor at the places of the other: broadcastable to the shape of it."""
    x: Tensor = args[other].square()
    if packet is aten.convolution:
        # the gradient of the sum of the outputs is, at each entry, the sum of what it multiplies
        settings = (None, *args[3:9], [False, True, False])
        ones = torch.ones_like(out)
        found: Tensor = aten.convolution_backward(ones, x, args[own], *settings)[1]
        return found
    if own > other:  # x [.., n, k] times weight [.., k, m]
        return x.sum(-2).unsqueeze(-1)
    return x.sum(-1).unsqueeze(-2)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def input_squares(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Any]
) -> dict[str, Tensor]:
    """For each entry of some weights, the sum of the squares of all that it multiplies.

    Of a linear layer with inputs x [B, .., in]: at [o, i] the sum of x_i^2 over all samples and
    tokens, the same for each o. Of a convolution: over all places that the entry is laid on, with
    zeros in the padding. The model is evaluated; its buffers and all randomness stay.

    Args:
        model: the plain module.
        weights: parameter name -> parameter of it.
        batches: inputs of the model, see `called_with`.

    Returns:
        Name -> its shape and type; zeros where a weight is not multiplied as it is.
    """
    watch = _Squares(weights)
    for x in batches:
        with one_forward(model), watch:
            called_with(model, x)
    return watch.sums
