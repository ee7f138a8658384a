"""Mean and standard deviation of the channels, as they are set or as they are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from prunekit.errors import RecipeError
from prunekit.registry.configs import DatasetConfig

CHUNK = 1024
"""Samples counted at a time: a chunk stays in the cache."""
SMALLEST_STD = 1.0
"""In pixel values: a channel of one value is left near zero, not blown up."""
Statistics = tuple[Tensor, Tensor]
"""Mean and standard deviation, float64 [C] each, on the CPU, in pixel values 0 .. 255."""


def statistics_of(
    config: DatasetConfig, channels: int, measure: Callable[[], Statistics]
) -> Statistics:
    """As they are set, else as they are measured.

    Args:
        config: the settings.
        channels: of the images.
        measure: called where one of the two is not set.

    Raises:
        RecipeError: not one for each channel.
    """
    given = {"mean": config.mean, "std": config.std}
    for key, values in given.items():
        if values is not None and len(values) != channels:
            raise RecipeError(
                f"data.{key}: {len(values)} values for images of {channels} channels: give one each"
            )
    mean, std = (
        None if values is None else torch.tensor(values, dtype=torch.float64) * 255
        for values in given.values()
    )
    if mean is not None and std is not None:
        return mean, std
    measured = measure()
    return measured[0] if mean is None else mean, measured[1] if std is None else std


def pixel_statistics(images: Tensor) -> Statistics:
    """Of images in memory, uint8 [N, C, H, W]; the deviation is at least 1."""
    return statistics_of_batches(torch.split(images, CHUNK), images.shape[1], images.device)


def statistics_of_batches(
    batches: Iterable[Tensor], channels: int, device: torch.device
) -> Statistics:
    """From integer counts of the 256 values, so that no order of the images changes a bit.

    Args:
        batches: uint8 [B, C, H, W] each.
        channels: C.
        device: where they are.
    """
    counts = torch.zeros(channels, 256, dtype=torch.int64, device=device)
    for batch in batches:
        for channel, count in zip(batch.unbind(1), counts, strict=True):
            count += torch.bincount(channel.reshape(-1), minlength=256)
    mean, std = torch.tensor([_moments(row) for row in counts.tolist()], dtype=torch.float64).T
    return mean, std.clamp(min=SMALLEST_STD)


def _moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    # total^2 * variance, in whole numbers: a difference of two large floats would lose digits
    return first / total, math.sqrt((total * second - first * first) / total**2)
