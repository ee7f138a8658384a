"""What our networks have in common: widths, their divisors, start weights, the least image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field
from torch import nn

from prunekit.errors import RecipeError
from prunekit.registry.configs import DataSpec

Width = Annotated[int, Field(ge=1, le=2**24)]
"""Output channels of a convolution, or units of a linear layer."""
Layer = nn.Linear | nn.Conv2d


def widths_of(layers: Iterable[nn.Module]) -> tuple[int, ...]:
    """How many outputs the linear layers and convolutions among `layers` have, by their weights.

    Surgery may have left `out_channels` as it was.
    """
    return tuple(len(layer.weight) for layer in layers if isinstance(layer, Layer))


def start_convolutions(model: nn.Module) -> None:
    """Draw the kernels from N(0, 2 / fan_in) (arXiv:1502.01852, eq. 10)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def check_side(name: str, spec: DataSpec, least: int) -> None:
    """Refuse images of which the pooling leaves nothing.

    Args:
        name: of the model.
        spec: of the data.
        least: the smallest side that the model takes, in pixels.

    Raises:
        RecipeError: says which size fits.
    """
    if min(spec.height, spec.width) < least:
        raise RecipeError(
            f"model.name: {name} takes images of {least}x{least} pixels or more, not "
            f"{spec.height}x{spec.width}: set data.image_size to {least} or more"
        )


def nearest_divisors(number: int, near: int) -> list[int]:
    """The greatest divisor of `number` up to `near` and the smallest from `near` on."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = small + [number // d for d in reversed(small)]
    below = [d for d in divisors if d <= near][-1:]
    above = [d for d in divisors if d >= near][:1]
    return list(dict.fromkeys(below + above))
