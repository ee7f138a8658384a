"""Erase a random rectangle of each of some images, as torchvision's `RandomErasing` has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunekit.data.split import generator
from prunekit.foundation.transfer import send
from prunekit.registry.augmentations import RandomErasing

TRIES = 10
SEEDS = 2**53
"""Whole numbers below it are exact in float64."""


def draw_erasing(count: int, seed: int, step: int) -> Tensor:
    """Random numbers for `count` samples, of which `erased_rectangles` makes what fits an image.

    Returns:
        float64 [count, 24]: whether, area and shape of ten tries, and the place in [0, 1); then a
        seed for the noise.
    """
    source = generator(seed, "random_erasing", step)
    draws = torch.rand(count, 2 * TRIES + 4, dtype=torch.float64, generator=source)
    draws[:, -1] = (draws[:, -1] * SEEDS).floor()
    return draws


def erased_rectangles(draws: Tensor, config: RandomErasing, size: tuple[int, int]) -> Tensor:
    """Top, left, height and width of what is erased; height 0 where nothing is.

    Args:
        draws: float64 [B, 24].
        config: chance, and ranges of area and shape.
        size: height and width of the images.

    Returns:
        int64 [B, 4].
    """
    height, width = size
    area, shape = draws[:, 1 : 1 + TRIES], draws[:, 1 + TRIES : 1 + 2 * TRIES]
    low, high = config.scale
    area = height * width * (low + (high - low) * area)
    flat, tall = (math.log(one) for one in config.ratio)
    ratio = (flat + (tall - flat) * shape).exp()
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    found = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    top, left = (draws[:, -3:-1] * (torch.tensor(size) - found + 1)).floor().unbind(1)
    placed = torch.stack([top, left, *found.unbind(1)], dim=1).long()
    erased = fits.any(1) & (draws[:, 0] < config.probability)
    return placed * erased.unsqueeze(1)


def erase(inputs: Tensor, draws: Tensor, config: RandomErasing) -> Tensor:
    """Erase a rectangle of each sample that has one.

    Args:
        inputs: float [B, C, h, w], normalised; it is changed.
        draws: float64 [B, 24], on the host.
        config: the settings.

    Returns:
        `inputs`.
    """
    channels, height, width = inputs.shape[1:]
    places = erased_rectangles(draws, config, (height, width)).tolist()
    for i, (top, left, tall, wide) in enumerate(places):
        if not tall * wide:
            continue
        value = torch.zeros(())
        if config.value == "noise":
            source = torch.Generator().manual_seed(int(draws[i, -1]))
            value = send(torch.randn(channels, tall, wide, generator=source), inputs.device)
        inputs[i, :, top : top + tall, left : left + wide] = value
    return inputs
