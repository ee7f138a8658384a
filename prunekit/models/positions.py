"""Learned positions of a file for images of another size: resampled to the patches of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.registry.configs import DataSpec

MOST_PREFIX_TOKENS = 6
"""Tokens that are no patches, at most: class, distillation and register tokens."""


@dataclass(frozen=True, slots=True)
class Regridded:
    """Positions [1, prefix + side², width] of square images, in a file and in a model."""

    prefix: int
    """Tokens before the patches, which keep their positions."""
    there: int
    """Patches a side in the file."""
    here: int
    """Patches a side in the model."""

    def __call__(self, positions: Tensor) -> Tensor:
        """Resample the part of the patches, bicubic and antialiased, as timm does.

        Args:
            positions: [1, prefix + there², width].

        Returns:
            [1, prefix + here², width], of the same type.
        """
        before, patches = positions[:, : self.prefix], positions[:, self.prefix :]
        grid = patches.float().reshape(1, self.there, self.there, -1).permute(0, 3, 1, 2)
        size = (self.here, self.here)
        grid = F.interpolate(grid, size=size, mode="bicubic", antialias=True)
        resampled = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
        return torch.cat([before, resampled], dim=1)

    def told(self, name: str) -> str:
        """What is said of it."""
        there, here = (f"{side}x{side}" for side in (self.there, self.here))
        return f"{name}, of images of another size, is resampled from {there} to {here} patches"


def regridded(
    there: Mapping[str, torch.Size], here: Mapping[str, torch.Size], spec: DataSpec
) -> dict[str, Regridded]:
    """The tensors that are positions of another number of patches, by their shapes.

    Args:
        there: name in the model -> shape in the file.
        here: the same names -> shape in the model.
        spec: the images; the patches of the model tile them.
    """
    found = {}
    for name, theirs in there.items():
        one = _between(theirs, here[name], spec) if theirs != here[name] else None
        if one is not None:
            found[name] = one
    return found


def _between(there: torch.Size, here: torch.Size, spec: DataSpec) -> Regridded | None:
    alike = len(there) == len(here) == 3 and there[0] == here[0] == 1 and there[2] == here[2]
    if not alike or spec.height != spec.width:
        return None
    for prefix in range(min(MOST_PREFIX_TOKENS, there[1] - 1, here[1] - 1) + 1):
        theirs, ours = isqrt(there[1] - prefix), isqrt(here[1] - prefix)
        squares = theirs**2 == there[1] - prefix and ours**2 == here[1] - prefix
        if squares and spec.height % ours == 0:
            return Regridded(prefix, theirs, ours)
    return None
