"""What a run's compressors made of a few test images: `merged.npz`. Torch-free."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunekit.errors import CheckpointError
from prunekit.foundation.files import read_bytes, replacing

MERGED_FILE = "merged.npz"
LEAST_SIDE = 96
"""Pixels: a smaller image is enlarged, so that lines between its patches leave room for them."""
GAP = 8
LINE, DROPPED = (213, 94, 0), (26, 26, 26)
"""Colours of the lines between tokens, and of patches that were dropped."""


@dataclass(frozen=True, slots=True)
class PatchGroups:
    """An image as the model took it, and the token that each of its patches ended in."""

    pixels: np.ndarray
    """uint8 [H, W, C]."""
    groups: np.ndarray
    """int64 [rows, columns]: equal numbers are one token; -1 = dropped."""

    @property
    def tokens(self) -> int:
        """How many were left."""
        return len(np.unique(self.groups[self.groups >= 0]))

    def rgb(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]; of other than three channels the first as gray."""
        channels = self.pixels.shape[2]
        return self.pixels if channels == 3 else np.repeat(self.pixels[:, :, :1], 3, axis=2)

    def enlarged(self) -> np.ndarray:
        """`rgb` by a whole factor, so that it has `LEAST_SIDE` pixels at least."""
        factor = -(-LEAST_SIDE // min(self.pixels.shape[:2]))
        return self.rgb().repeat(factor, axis=0).repeat(factor, axis=1)

    def fields(self) -> np.ndarray:
        """As `enlarged`: each token one field of the mean colour of its patches."""
        picture = self.enlarged()
        height, width = (n // g for n, g in zip(picture.shape, self.groups.shape, strict=False))
        token = self.groups.repeat(height, axis=0).repeat(width, axis=1)
        painted = np.empty_like(picture)
        for number in np.unique(token):
            here = token == number
            painted[here] = DROPPED if number < 0 else picture[here].mean(axis=0).round()
        border = np.zeros(token.shape, bool)
        border[:, 1:] |= token[:, 1:] != token[:, :-1]
        border[1:] |= token[1:] != token[:-1]
        painted[border] = LINE
        return painted


def side_by_side_image(images: Sequence[PatchGroups]) -> np.ndarray:
    """Images above, their fields below: uint8 [H, W, 4], gaps white and see-through."""
    rows = [[one.enlarged() for one in images], [one.fields() for one in images]]
    height, width = rows[0][0].shape[:2]
    whole = np.full((2 * height + GAP, len(images) * (width + GAP) - GAP, 4), 255, np.uint8)
    whole[..., 3] = 0
    for down, row in enumerate(rows):
        for along, one in enumerate(row):
            top, left = down * (height + GAP), along * (width + GAP)
            whole[top : top + height, left : left + width, :3] = one
            whole[top : top + height, left : left + width, 3] = 255
    return whole


def write_patch_groups(path: Path, images: Sequence[PatchGroups]) -> None:
    """Write images of one size.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    content = io.BytesIO()
    pixels = np.stack([one.pixels for one in images])
    groups = np.stack([one.groups for one in images])
    np.savez_compressed(content, pixels=pixels, groups=groups)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_patch_groups(path: Path) -> list[PatchGroups]:
    """Read what `write_patch_groups` wrote.

    Raises:
        CheckpointError: missing, or not such a file.
    """
    try:
        content = io.BytesIO(read_bytes(path))  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            pixels, groups = file["pixels"], file["groups"]
        whole = pixels.ndim == 4 and groups.ndim == 3 and len(pixels) == len(groups) > 0
        if not whole or pixels.dtype != np.uint8 or groups.dtype.kind != "i":
            raise ValueError("other shapes")
        if any(n % g for n, g in zip(pixels.shape[1:3], groups.shape[1:], strict=True)):
            raise ValueError("no grid of patches")
    except Exception as error:  # a damaged archive raises anything
        raise CheckpointError(f"{path}: not a file of merged patches: {error}") from error
    return [PatchGroups(*pair) for pair in zip(pixels, groups, strict=True)]
