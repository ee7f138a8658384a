"""Sums that a device keeps while its host does not wait, in more digits than float32 has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunekit.foundation.devices import has_float64


class Tally:
    """Running sums of a few numbers.

    In float64 where the device has it. Elsewhere each is a pair of float32, the sum and what
    rounding took from it (Knuth's two-sum, The Art of Computer Programming 2, 4.2.2): about 48
    bits, so that counts are exact up to 2^48.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        """`size` sums of 0 on the device."""
        wide = has_float64(device)
        self._parts = torch.zeros(
            1 if wide else 2, size, dtype=torch.float64 if wide else torch.float32, device=device
        )

    def add(self, values: Tensor) -> None:
        """One more of each, [size]; nobody waits."""
        if len(self._parts) == 1:
            self._parts[0] += values
            return
        high, low = self._parts
        values = values.float()
        total = high + values
        new = total - high
        low = low + ((high - (total - new)) + (values - new))
        high = total + low
        self._parts = torch.stack([high, low - (high - total)])

    def read(self, total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Float64 [size] on the host, which waits for it.

        Args:
            total: adds up what all processes have, of a tensor on the device.
        """
        parts = self._parts if total is None else total(self._parts)
        return parts.cpu().double().sum(0)

    def set(self, values: Tensor) -> None:
        """Go on from these, float64 [size] on the host."""
        high = values.to(self._parts.dtype)
        parts = [high, (values - high.double()).to(self._parts.dtype)]
        self._parts = torch.stack(parts[: len(self._parts)]).to(self._parts.device)

    def clear(self) -> None:
        """Begin again at 0."""
        self._parts.zero_()
