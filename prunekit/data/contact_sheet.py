"""A training batch as one picture: what augmentation makes of the images, to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prunekit.data.batches import DataSet

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2
"""Pixels between images."""


def contact_sheet(data: DataSet, step: int = 0, *, images: int = 64, columns: int = 8) -> Image:
    """Draw the first images of a batch, row by row, as the model gets them but for the normalising.

    Args:
        data: any data set.
        step: optimizer steps before the batch.
        images: at most so many.
        columns: images a row.
    """
    from PIL import Image

    x = data.train_batch(step)[0][:images].cpu()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    pixels = (x * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    gray = pixels.shape[1] != 3
    shown = pixels[:, :1].expand(-1, 3, -1, -1) if gray else pixels
    tall, wide = (length + GAP for length in shown.shape[2:])
    rows = -(-len(shown) // columns)
    sheet = torch.full((3, rows * tall - GAP, columns * wide - GAP), 255, dtype=torch.uint8)
    for i, image in enumerate(shown):
        top, left = i // columns * tall, i % columns * wide
        sheet[:, top : top + tall - GAP, left : left + wide - GAP] = image
    return Image.fromarray(sheet.permute(1, 2, 0).numpy())
