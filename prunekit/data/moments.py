"""Mean and standard deviation of a set's pixels, exact whatever the device and the order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 1024
"""Samples counted at a time: a chunk stays in the cache."""
SMALLEST_STD = 1.0
"""In pixel values: a channel of one value is left near zero, not blown up."""


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, from integer counts of the 256 values.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        Two float64 [C] on the CPU, in pixel values 0 .. 255; the deviation is at least 1.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device=images.device)
    for chunk in torch.split(images, CHUNK):
        for channel, count in zip(chunk.unbind(1), counts, strict=True):
            count += torch.bincount(channel.reshape(-1), minlength=256)
    mean, std = torch.tensor([_moments(row) for row in counts.tolist()], dtype=torch.float64).T
    return mean, std.clamp(min=SMALLEST_STD)


def _moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    # total^2 * variance, in whole numbers: a difference of two large floats would lose digits
    return first / total, math.sqrt((total * second - first * first) / total**2)
