"""The second moments of what each weight multiplies: the Hessian of a layer's squared output error.

For outputs y = W x it is 2 x x^T, summed over samples, tokens and places; the factor 2 is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.devices import widest
from prunekit.foundation.modules import called_with, one_forward
from prunekit.foundation.transfer import read
from prunekit.pruning.inputs import Products, aten, other_factor

AT_ONCE = 1 << 24
"""Entries of unfolded images at a time, 64 MiB of float32, or one sample."""


class Sheet(NamedTuple):
    """A part of a weight as matrices [groups, rows, columns]: each row is one output.

    Of a convolution the columns are the places of the kernel, and at each of them the input
    channels of the group; of all else the inputs.
    """

    start: int
    size: tuple[int, ...]
    """[groups, rows, ..]; what follows are the columns."""
    stride: tuple[int, ...]

    def read(self, weight: Tensor) -> Tensor:
        """The matrices of a tensor that is laid out as the weight, a copy."""
        return self._view(weight).clone().flatten(2)

    def write(self, weight: Tensor, values: Tensor) -> None:
        """`values` [groups, rows, columns] into such a tensor, in place."""
        self._view(weight).copy_(values.view(self.size))

    def _view(self, weight: Tensor) -> Tensor:
        return weight.as_strided(self.size, self.stride, weight.storage_offset() + self.start)


Hessians = Mapping[Sheet, Tensor]
"""Part of a weight -> [groups, columns, columns], of the widest floating type of the device."""


class _Moments(Products):  # type: ignore[no-untyped-call]
    """Adds up x x^T for the weights that are `wanted`, and notes which weights come when."""

    def __init__(self, weights: Mapping[str, Tensor], wanted: Iterable[str]) -> None:
        super().__init__(weights)
        self.sums: dict[str, dict[Sheet, Tensor]] = {name: {} for name in wanted}
        self.order: dict[str, None] = {}

    def saw(self, name: str, start: int, packet: Any, args: Any, own: int, out: Tensor) -> None:
        """See `Products`."""
        self.order[name] = None
        if name not in self.sums:
            return
        view, other = args[own], args[other_factor(packet, own)]
        if packet is aten.convolution:
            sheet, moments = _of_convolution(name, start, view, other, args)
        else:
            sheet, moments = _of_product(start, view, other, first=own < other_factor(packet, own))
        sums = self.sums[name]
        sums[sheet] = sums[sheet] + moments if sheet in sums else moments


def _of_product(start: int, view: Tensor, x: Tensor, *, first: bool) -> tuple[Sheet, Tensor]:
    """Of W x, where the weight is the `first` factor, or of x W; both may be batches of such."""
    if not first:  # columns are what is summed over, rows the outputs
        view, x = view.mT, x.mT
    if view.ndim == 3 and (len(view) == 1 or view.stride(0) == 0):  # one matrix for the batch
        view, x = view[0], x.transpose(0, 1).flatten(1)
    if view.ndim == 2:
        view, x = view.unsqueeze(0), x.unsqueeze(0)
    x = _exact(x)
    return Sheet(start, tuple(view.shape), view.stride()), _summable(x @ x.mT)


def _of_convolution(
    name: str, start: int, view: Tensor, x: Tensor, args: Any
) -> tuple[Sheet, Tensor]:
    stride, padding, dilation, transposed, _, groups = args[3:9]
    if transposed:
        raise RecipeError(
            f"scope: {name} is of a transposed convolution, whose inputs are not unfolded here: "
            f"leave it out with scope.exclude: [{name}]"
        )
    shape = (groups, view.shape[0] // groups, *view.shape[1:])
    parts = view.view(shape).movedim(2, -1)
    kernel, columns = view.shape[2:], parts[0, 0].numel()
    moments = _summable(x.new_zeros(groups, columns, columns))
    each = max(1, AT_ONCE // max(1, x[:1].numel() * kernel.numel()))
    for first in range(0, len(x), each):
        some = _exact(x[first : first + each])
        patches = _unfolded(some, groups, kernel, (stride, padding, dilation))
        moments += patches.mT @ patches
    return Sheet(start, tuple(parts.shape), parts.stride()), moments


def _unfolded(x: Tensor, groups: int, kernel: torch.Size, laid: Sequence[Sequence[int]]) -> Tensor:
    """What a kernel is laid on: [B, C, ..] -> [groups, B * places, columns]."""
    dims = len(kernel)
    steps, paddings, gaps = ([*one] * (dims // len(one)) for one in laid)
    x = F.pad(x, [side for pad in reversed(paddings) for side in (pad, pad)])
    for i, (size, step, gap) in enumerate(zip(kernel, steps, gaps, strict=True)):
        x = x.unfold(2 + i, gap * (size - 1) + 1, step)[..., ::gap]
    x = x.reshape(len(x), groups, x.shape[1] // groups, *x.shape[2:]).movedim(1, 0)
    # now [groups, B, C / groups, *places, *kernel]
    return x.movedim(2, -1).flatten(1, 1 + dims).flatten(2)


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.itemsize < 4 else x


def _summable(moments: Tensor) -> Tensor:
    return moments.to(widest(moments.device))


def use_order(model: nn.Module, weights: Mapping[str, Tensor], x: Any) -> list[str]:
    """The names of the weights that a pass multiplies by, in the order of their first use."""
    watch = _Moments(weights, ())
    with one_forward(model), watch:
        called_with(model, x)
    return [*watch.order]


def hessians(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    wanted: Iterable[str],
    batches: Iterable[Any],
) -> dict[str, dict[Sheet, Tensor]]:
    """The sum of x x^T over all inputs x of some weights, each divided in its sheets.

    Of a linear layer with inputs [B, .., in] over all samples and tokens; of a convolution over all
    places, with zeros in the padding, for each group. A weight that several layers share has the
    sum over them. The rows of `in_proj_weight` are several sheets where their inputs differ.

    Args:
        model: the plain module; it is evaluated, buffers and all randomness stay.
        weights: name -> tensor that the model multiplies by.
        wanted: the names to look at.
        batches: inputs of the model.

    Raises:
        RecipeError: a weight is not multiplied as it is, each entry by one kind of input.
    """
    watch = _Moments(weights, wanted)
    for x in batches:
        with one_forward(model), watch:
            called_with(model, x)
    for name, sheets in watch.sums.items():
        _refuse_odd(name, weights[name], sheets)
    return watch.sums


def _refuse_odd(name: str, weight: Tensor, sheets: Hessians) -> None:
    entries = sum(torch.Size(sheet.size).numel() for sheet in sheets)
    met = read([moments.any() for moments in sheets.values()])
    if not any(met):
        raise RecipeError(
            f"scope: {name} meets no input that is not zero as it is: leave it out with "
            f"scope.exclude: [{name}]"
        )
    if entries != weight.numel():
        raise RecipeError(
            f"scope: {name} is multiplied in parts that overlap or leave some of it out: leave it "
            f"out with scope.exclude: [{name}]"
        )
