"""From decoded images to what a model takes: one code for training, evaluation and use after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from prunekit.data.resizing import resize, resize_and_crop
from prunekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a run made the input of its model of images in evaluation, and what its classes are.

    Of decoded images [B, C, H, W] it makes float32 [B, C, h, w]: pixel values less `mean`, over
    `std`; then, where `image_size` is set, the middle square is resized to that side, or where
    `resize` is set, the shorter side to that and the middle `image_size` square is taken. `read`
    decodes files as the data set `image_folder` does.
    """

    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    """Of each channel of the training split, in pixel values 0 .. 255; over 255 for 0 .. 1."""
    std: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)
    ]
    """As `mean`."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Their names, in the order of the logits."""
    decoded: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Height and width of the images of the test split as they were decoded."""
    image_size: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels to which a batch is resized; None = images are taken as they are decoded."""
    resize: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Pixels to which the shorter side is resized before the middle `image_size` square is taken;
    None = the middle square of the whole is resized."""
    kept: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Side of the squares that files of other sizes are decoded to; None = `image_size`."""
    pixels: Literal["uint8 0 .. 255"] = "uint8 0 .. 255"
    """What is taken."""
    crop: Literal["center square"] = "center square"
    """What is resized."""
    interpolation: Literal["bilinear"] = "bilinear"
    antialias: Literal["when shrinking"] = "when shrinking"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the model takes."""
        return self.decoded if self.image_size is None else (self.image_size, self.image_size)

    def __call__(self, images: Tensor) -> Tensor:
        """The input of the model for a batch.

        Args:
            images: uint8 [B, C, H, W], on any device; gray ones [B, 1, H, W] become what the model
                takes. Of the size `decoded` where `image_size` is None, else of any.

        Returns:
            float32 [B, C, *size].

        Raises:
            UsageError: no tensor, or another dtype, shape or number of channels.
        """
        channels = len(self.mean)
        if not isinstance(images, Tensor):
            raise UsageError(
                f"images: {type(images).__name__}: give a uint8 tensor [B, {channels}, H, W], or "
                "files to `read`"
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, channels):
            raise UsageError(
                f"images: {str(images.dtype).removeprefix('torch.')} {list(images.shape)}: give "
                f"uint8 pixel values [B, {channels}, H, W], 0 .. 255"
            )
        if self.image_size is None and tuple(images.shape[2:]) != self.decoded:
            raise UsageError(
                f"images: {images.shape[2]}x{images.shape[3]} pixels, where the model was trained "
                f"on {self.decoded[0]}x{self.decoded[1]} and none was resized: bring them to that"
            )
        statistics = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        shift, scale = normalisation(*statistics)
        images = images.expand(-1, channels, -1, -1)
        shift, scale = shift.to(images.device), scale.to(images.device)
        return prepare(images, shift, scale, self.image_size, self.resize)

    def read(self, paths: Iterable[str | Path] | Path) -> Tensor:
        """The input of the model for image files, decoded as those of the test split were.

        Alpha is dropped and EXIF rotation ignored. A file of the size `decoded` is taken as it is;
        of another one the middle square, brought to `image_size`, or to the larger side that is
        kept or resized to first.

        Args:
            paths: JPEG, PNG, PPM, BMP, TIFF or WebP files, or one of them.

        Returns:
            float32 [N, C, *size].

        Raises:
            DataError: a file that cannot be decoded, in colour for a model of gray images, or of
                another size where there is no `image_size`; names it.
        """
        from prunekit.data.images import decode_like  # Pillow, which batches do without

        if isinstance(paths, str | Path):  # one file, not its letters
            paths = [paths]
        shape = (len(self.mean), *self.decoded)
        side = self.kept or self.resize or self.image_size
        files = [self(decode_like(Path(path), shape, side)) for path in paths]
        return torch.cat(files) if files else torch.empty(0, len(self.mean), *self.size)


def class_names(classes: Iterable[str]) -> tuple[str, ...]:
    """Names as text: that of a folder may be none."""
    return tuple(str(name).encode(errors="backslashreplace").decode() for name in classes)


def normalisation(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """What is subtracted from pixel values, and what they are then multiplied by.

    Args:
        mean: float64 [C], pixel values.
        std: float64 [C].

    Returns:
        Two float32 [1, C, 1, 1].
    """
    return mean.float().view(1, -1, 1, 1), (1 / std).float().view(1, -1, 1, 1)


def prepare(
    images: Tensor,
    shift: Tensor,
    scale: Tensor,
    image_size: int | None,
    shorter: int | None = None,
) -> Tensor:
    """Normalise a batch, then resize it.

    Args:
        images: uint8 [B, C, H, W].
        shift: float32 [1, C, 1, 1], on the device of the images.
        scale: as `shift`.
        image_size: side in pixels; None = as they are.
        shorter: pixels to which the shorter side is resized before the middle is taken.

    Returns:
        float32 [B, C, h, w].
    """
    # a multiplication and an addition apart: a fused one rounds differently at a batch's tail
    x = images.float().sub_(shift).mul_(scale)
    if image_size is None:
        return x
    return resize(x, image_size) if shorter is None else resize_and_crop(x, shorter, image_size)
