"""Random brightness, contrast, saturation and hue, as torchvision's `ColorJitter` has it."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.data.split import generator
from prunekit.registry.augmentations import ColorJitter


def draw_colours(config: ColorJitter, count: int, seed: int, step: int) -> Tensor:
    """The factors of `count` samples, and their order.

    Returns:
        float64 [count, 8]: factors of brightness, contrast and saturation and the turn of the hue,
        then a number for each, in whose order they are applied.
    """
    source = generator(seed, "color_jitter", step)
    draws = torch.rand(count, 8, dtype=torch.float64, generator=source)
    for column, reach in enumerate((config.brightness, config.contrast, config.saturation)):
        low, high = max(0.0, 1 - reach), 1 + reach
        draws[:, column].mul_(high - low).add_(low)
    draws[:, 3].mul_(2 * config.hue).sub_(config.hue)
    return draws


def change_colours(images: Tensor, draws: Tensor, config: ColorJitter) -> Tensor:
    """Change the colours of each sample: one by one, as no two have the same factors.

    Args:
        images: uint8 [B, 1 or 3, H, W].
        draws: float64 [B, 8], on the host.
        config: what has no reach is left out.

    Returns:
        uint8 [B, C, H, W].
    """
    from torchvision.transforms.v2 import functional as F  # which most runs do without

    kernels = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    reach = (config.brightness, config.contrast, config.saturation, config.hue)
    found = images.clone()
    for i, row in enumerate(draws):
        for which in row[4:].argsort().tolist():
            if reach[which]:
                found[i] = kernels[which](found[i], float(row[which]))
    return found
