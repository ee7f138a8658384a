"""Cut out a random rectangle and resize it: inception's crop, as torchvision has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunekit.data.split import generator
from prunekit.registry.augmentations import RandomResizedCrop

TRIES = 10


def draw_resized_crop(count: int, seed: int, step: int) -> Tensor:
    """Random numbers for `count` samples, of which `crop_rectangles` makes what fits an image.

    Returns:
        float64 [count, 22] in [0, 1): area and shape of ten tries, then the place.
    """
    source = generator(seed, "random_resized_crop", step)
    return torch.rand(count, 2 * TRIES + 2, dtype=torch.float64, generator=source)


def crop_rectangles(draws: Tensor, config: RandomResizedCrop, size: tuple[int, int]) -> Tensor:
    """Top, left, height and width: the first try that fits, else the middle.

    Args:
        draws: float64 [B, 22].
        config: ranges of area and shape.
        size: height and width of the images.

    Returns:
        int64 [B, 4].
    """
    height, width = size
    area, shape = draws[:, :TRIES], draws[:, TRIES : 2 * TRIES]
    low, high = config.scale
    area = height * width * (low + (high - low) * area)
    narrow, wide = (math.log(one) for one in config.ratio)
    ratio = (narrow + (wide - narrow) * shape).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    found = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    top, left = (draws[:, -2:] * (torch.tensor(size) - found + 1)).floor().unbind(1)
    placed = torch.stack([top, left, *found.unbind(1)], dim=1).long()
    return placed.where(fits.any(1, keepdim=True), _middle(config.ratio, size))


def crop_rectangle(
    draws: Tensor, config: RandomResizedCrop, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """`crop_rectangles` of one image, in a tenth of the time: streamed ones differ in size.

    Args:
        draws: float64 [22].
        config: ranges of area and shape.
        size: height and width of the image.
    """
    height, width = size
    low, high = config.scale
    narrow, wide = (math.log(one) for one in config.ratio)
    ratios = (narrow + (wide - narrow) * draws[TRIES : 2 * TRIES]).exp().tolist()
    numbers = draws.tolist()
    for drawn, ratio in zip(numbers[:TRIES], ratios, strict=True):
        area = height * width * (low + (high - low) * drawn)
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            top, left = numbers[-2] * (height - down + 1), numbers[-1] * (width - across + 1)
            return math.floor(top), math.floor(left), down, across
    top, left, down, across = _middle(config.ratio, size).tolist()
    return top, left, down, across


def _middle(ratio: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """The largest rectangle in the middle whose shape is allowed."""
    height, width = size
    if width / height < ratio[0]:
        height = round(width / ratio[0])
    elif width / height > ratio[1]:
        width = round(height * ratio[1])
    return torch.tensor([(size[0] - height) // 2, (size[1] - width) // 2, height, width])


def crop_and_resize(
    images: Tensor, draws: Tensor, config: RandomResizedCrop, size: tuple[int, int]
) -> Tensor:
    """Cut and resize each sample: one by one, as each rectangle is of another size.

    Args:
        images: uint8 [B, C, H, W].
        draws: float64 [B, 22], on the host.
        config: the settings.
        size: height and width of what comes out.

    Returns:
        uint8 [B, C, *size].
    """
    from torchvision.transforms import InterpolationMode  # which most runs do without
    from torchvision.transforms.v2 import functional as F

    how = InterpolationMode(config.interpolation)
    found = images.new_empty((*images.shape[:2], *size))
    places = crop_rectangles(draws, config, (images.shape[2], images.shape[3])).tolist()
    for i, place in enumerate(places):
        found[i] = F.resized_crop(
            images[i], *place, size=list(size), interpolation=how, antialias=True
        )
    return found
