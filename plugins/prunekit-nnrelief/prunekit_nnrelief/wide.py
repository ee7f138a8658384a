"""Float64 wherever a tensor is."""

from __future__ import annotations

from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The values of x in float64: where they are, else on the host, as some devices have none."""
    try:
        return x.double()
    except (TypeError, RuntimeError):
        return x.cpu().double()
