"""Sums over some of the entries of a tensor, on its device, without a wait for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Sums:
    """Sums |x| and x^2; its working memory is used again, as fresh pages cost more than the sums.

    Two times the largest tensor is held. PyTorch sums float32 in a tree: relative errors are near
    1e-7 however many entries there are.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(2, 0)
        self._rooms: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def statistics(self, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """L2 norm, mean |x| and RMS of each tensor, and at last of all of them pooled.

        Args:
            tensors: by name, on one device.
            masks: bool masks by name; of a tensor without one, all entries count.

        Returns:
            [statistic, tensor], float64; 0 where no entry counts.
        """
        found = [self._sums(x, masks.get(name)) for name, x in tensors.items()]
        sums = torch.stack([torch.stack(kind).double() for kind in zip(*found, strict=True)])
        absolute, squares, counts = torch.cat([sums, sums.sum(1, keepdim=True)], dim=1)
        counts = counts.clamp(min=1)
        return torch.stack([squares.sqrt(), absolute / counts, (squares / counts).sqrt()])

    def _sums(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of |x|, sum of x^2 and number of entries: scalars on the device."""
        values, factor = self._room(x)
        if mask is None:
            torch.abs(x, out=values)
            count = values.new_full((), x.numel())
        else:
            # to multiply by bool takes several times as long, and so does bool -> float
            factor.copy_(mask.view(torch.uint8))
            torch.mul(x, factor, out=values).abs_()
            count = factor.sum()
        return values.sum(), values.square_().sum(), count

    def _room(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for two tensors of x's shape, float32 or more."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        memory = self._memory
        if memory.dtype != dtype or memory.device != x.device or memory.shape[1] < x.numel():
            self._memory = memory = torch.empty(2, x.numel(), dtype=dtype, device=x.device)
            self._rooms.clear()
        if x.shape not in self._rooms:
            values, factor = memory[:, : x.numel()].view(2, *x.shape)
            self._rooms[x.shape] = values, factor
        return self._rooms[x.shape]
