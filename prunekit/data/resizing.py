"""Bring the images of a batch to the size that a model takes, on the device."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_IN_BYTES = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Where torchvision, of any version, resizes bytes as they are; elsewhere it takes floats."""


def resize(images: Tensor, side: int) -> Tensor:
    """The middle square of each image, resized: bilinear, antialiased when shrinking.

    Args:
        images: float [B, C, H, W].
        side: pixels.

    Returns:
        float [B, C, side, side], contiguous.
    """
    height, width = images.shape[2:]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    middle = images[:, :, top : top + square, left : left + square].contiguous()
    if square == side:
        return middle
    return F.interpolate(middle, (side, side), mode="bilinear", antialias=square > side)


def resize_and_crop(images: Tensor, shorter: int, side: int) -> Tensor:
    """Resize each image by its shorter side, then take the middle square: torchvision's
    `Resize(shorter)` and `CenterCrop(side)` of float images.

    Args:
        images: float [B, C, H, W].
        shorter: pixels that the shorter side becomes; the longer one in proportion, rounded down.
        side: pixels of the square, at most `shorter`.

    Returns:
        float [B, C, side, side], contiguous.
    """
    height, width = images.shape[2:]
    if min(height, width) != shorter:
        long = int(shorter * max(height, width) / min(height, width))
        size = (shorter, long) if height <= width else (long, shorter)
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (round((length - side) / 2) for length in images.shape[2:])
    return images[:, :, top : top + side, left : left + side].contiguous()


def resize_pixels(
    image: Tensor, size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"]
) -> Tensor:
    """Resize decoded pixels as torchvision's `resize` does: antialiased when shrinking.

    Args:
        image: uint8 [C, H, W].
        size: height and width; those of the image give the image itself.
        interpolation: how.

    Returns:
        uint8 [C, *size].
    """
    if tuple(image.shape[1:]) == size:
        return image
    if _IN_BYTES or interpolation == "bicubic":  # what torchvision would call
        one = image.unsqueeze(0)
        return F.interpolate(one, size, mode=interpolation, antialias=True).squeeze(0)
    from torchvision.transforms import InterpolationMode  # which most runs do without
    from torchvision.transforms.v2 import functional

    how = InterpolationMode(interpolation)
    resized: Tensor = functional.resize(image, list(size), interpolation=how, antialias=True)
    return resized
