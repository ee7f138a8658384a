"""Random images for the small models."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from prunekit.foundation.seeding import seed_for
from prunekit.testing.models import SmallModel

BATCH = 8


class Samples:
    """Calibration data: the same on all ranks."""

    def __init__(self, seed: int, small: SmallModel) -> None:
        self.seed, self.small = seed, small

    def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """`samples` random images in batches."""
        for first in range(0, samples, BATCH):
            x, y = batch((self.seed, "calibration", first), self.small)
            if balanced:
                y = (torch.arange(BATCH) + first) % self.small.classes
            yield x[: samples - first], y[: samples - first]


def batch(place: tuple[int | str, ...], small: SmallModel) -> tuple[Tensor, Tensor]:
    """Random images and labels of a place."""
    generator = torch.Generator().manual_seed(seed_for(*place))
    x = torch.randn(BATCH, *small.input_shape, generator=generator)
    return x, torch.randint(small.classes, (BATCH,), generator=generator)
