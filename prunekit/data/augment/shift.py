"""Mirror and shift whole batches, on the device, without a loop over samples."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.data.split import generator


def padding(side: int) -> int:
    """Pixels by which a crop shifts at most: an eighth of the side, rounded down, at least 1."""
    return max(1, side // 8)


def draw(
    augment: Collection[object], pads: tuple[int, int], count: int, seed: int, step: int
) -> Tensor:
    """The random choices for a global batch, from a generator of this seed, step and augmentation.

    Args:
        augment: what is done; the choices for one do not depend on the other.
        pads: vertical and horizontal padding of a crop.
        count: samples.
        seed: of the run.
        step: optimizer steps done.

    Returns:
        int64 [3, count]: flip (0 or 1), then the top and left edge of the window in the padded
        image, 0 .. 2 * pad.
    """
    choices = torch.zeros(3, count, dtype=torch.int64)
    if "flip" in augment:
        choices[0].random_(0, 2, generator=generator(seed, "flip", step))
    if "crop" in augment:
        source = generator(seed, "crop", step)
        for row, pad in zip(choices[1:], pads, strict=True):
            row.random_(0, 2 * pad + 1, generator=source)
    return choices


def cut(images: Tensor, choices: Tensor, pads: tuple[int, int]) -> Tensor:
    """Pad with zeros, cut each sample's window out and mirror it where its flip is 1.

    Args:
        images: uint8 [B, C, H, W].
        choices: int64 [3, B], as `draw` makes them.
        pads: vertical and horizontal padding.

    Returns:
        uint8 [B, C, H, W].
    """
    count, channels, height, width = images.shape
    if pads == (0, 0):
        return _where(choices[0].view(-1, 1, 1, 1) == 1, images.flip(-1), images)
    flip, top, left = choices[..., None]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flip == 1, width - 1 - columns, columns) + left
    rows = torch.arange(height, device=images.device) + top
    pixels = rows[:, :, None] * (width + 2 * pads[1]) + columns[:, None, :]
    padded = F.pad(images, (pads[1], pads[1], pads[0], pads[0])).flatten(2)
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    return padded.gather(2, pixels).view(images.shape)


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`torch.where` of bytes, eight at a time where they lie so."""
    if one.shape[-1] % 8 or not one.is_contiguous() or not other.is_contiguous():
        return torch.where(condition, one, other)
    chosen = torch.where(condition, one.view(torch.int64), other.view(torch.int64))
    return chosen.view(one.dtype)
