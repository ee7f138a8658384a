"""Image files to one uint8 tensor, all of one size.

Pillow decodes: torchvision depends on it, it reads a header before the pixels, and for small JPEGs
it is as fast as torchvision's own decoder once the import of that is counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from prunekit.data.cache import require_memory
from prunekit.errors import DataError
from prunekit.foundation.files import open_regular

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
GRAY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
DEEP = ("I", "F")
"""What modes of 16 and 32 bits begin with."""
MAX_PIXELS = 89_478_485
"""Pillow's own limit for a warning; a small file can declare far more than memory holds."""
CHUNK = 256
"""Files a task."""
SMALL = 128 * 128
"""Pixels up to which a thread spends its time in Python: a second one would only get in the way."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How every image of a set is stored."""

    channels: int
    height: int
    width: int
    cropped: bool
    """Whether images of any size are cut to their middle square and resized to this one."""


class _MisfitError(Exception):
    """An image does not fit the layout; holds the one that it does fit."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout


class ImageLike(Protocol):
    """The path of an image, or what is opened like one and told by its text."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Its bytes."""
        ...


def open_image(path: ImageLike) -> BinaryIO:
    """Its bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    return open_regular(path) if isinstance(path, Path) else path.open("rb")


def decode(paths: Sequence[ImageLike], image_size: int | None) -> Tensor:
    """Decode images: gray if all of them are, else RGB; alpha is dropped, EXIF rotation ignored.

    Images of one size stay as they are, unless they are larger than `image_size`. Others become the
    middle square, resized (bilinear, antialiased when shrinking).

    Args:
        paths: at least one; told by the folder above that of the first, or by its text.
        image_size: side in pixels of the square, needed where sizes differ.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        DataError: an image that cannot be decoded, with its path; different sizes and no
            `image_size`.
        ResourceError: the decoded set is larger than the memory.
    """
    layout = layout_of(paths[0], image_size)
    while True:  # at most twice more: to RGB, to squares
        try:
            return _decode_all(paths, layout, image_size)
        except _MisfitError as misfit:
            layout = misfit.layout


def decode_like(path: Path, shape: tuple[int, int, int], image_size: int | None) -> Tensor:
    """Decode an image as one of a set that is decoded already.

    Args:
        path: of the file.
        shape: [C, H, W] of the images of the set.
        image_size: that of the set: for an image of another size.

    Returns:
        uint8 [1, C, h, w]: of the height and width of the set, or of `image_size`.

    Raises:
        DataError: it cannot be decoded, or would have given the set another form; names the file.
    """
    try:
        pixels = _read(path, Layout(*shape, cropped=False), image_size)
    except _MisfitError as misfit:
        if misfit.layout.channels != shape[0]:
            raise DataError(
                f"{path}: an image in colour, where the model takes gray ones: convert it"
            ) from misfit
        pixels = _read(path, misfit.layout, image_size)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0)


def check_readable(width: int, height: int, mode: str) -> None:
    """Refuse an image by its header, before its pixels are decoded.

    Raises:
        ValueError: too many pixels, or none that are 8 bits of gray or RGB; has the remedy.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, more than {MAX_PIXELS}")
    if mode not in GRAY + COLOUR:
        raise ValueError(f"mode {mode} {_unfit(mode)}, or read it by a data set of your own)")


def _unfit(mode: str) -> str:
    """Why a mode of Pillow's is not read; begins what to do with a whole set of them."""
    if mode.startswith(DEEP):
        return "has more than 8 bits a channel (if all are so: convert the set to 8 bits"
    return "is neither gray nor RGB, nor made RGB by Pillow (if all are so: convert the set to RGB"


def plain_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image that `check_readable` lets pass, as `L` or `RGB`."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns of a transparent palette turned to RGB
    return image if image.mode == mode else image.convert(mode)


def layout_of(path: ImageLike, image_size: int | None) -> Layout:
    """What the first image of a set would make of all of them.

    Raises:
        DataError: it cannot be decoded.
    """
    pixels = _read(path, None, None)
    height, width, channels = pixels.shape
    if image_size is not None and min(height, width) > image_size:
        return Layout(channels, image_size, image_size, cropped=True)
    return Layout(channels, height, width, cropped=False)


def _where(first: ImageLike) -> str:
    return str(first.parent.parent) if isinstance(first, Path) else str(first)


def _decode_all(paths: Sequence[ImageLike], layout: Layout, image_size: int | None) -> Tensor:
    shape = (len(paths), layout.channels, layout.height, layout.width)
    require_memory(
        int(np.prod(shape, dtype=np.int64)),
        f"{_where(paths[0])}: {len(paths)} images",
        "set a smaller data.image_size, or keep fewer files",
    )
    images = torch.empty(shape, dtype=torch.uint8)
    rows = images.numpy()

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(paths))):
            rows[i] = _read(paths[i], layout, image_size).transpose(2, 0, 1)

    workers = 1 if layout.height * layout.width <= SMALL else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(0, len(paths), CHUNK)):
            pass
    return images


def _read(path: ImageLike, layout: Layout | None, image_size: int | None) -> np.ndarray:
    """One image, uint8 [H, W, C]; as it is where there is no layout yet."""
    try:
        with open_image(path) as file:
            image = Image.open(file, formats=FORMATS)
            check_readable(image.width, image.height, image.mode)
            if layout is not None:
                _check(image, path, layout, image_size)
            channels = layout.channels if layout else 1 if image.mode in GRAY else 3
            return _pixels(image, channels, layout)
    except (_MisfitError, DataError):
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise DataError(
            f"{path}: cannot be decoded: {why_broken(error)}: replace or remove it"
        ) from error


def why_broken(error: Exception) -> str:
    """What a decoder says, without the place in its own code."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a format that is read"
    text = " ".join(str(error).split())
    return text.partition(".cpp:")[2].partition(", ")[2] or text or type(error).__name__


def _check(image: Image.Image, path: ImageLike, layout: Layout, image_size: int | None) -> None:
    if layout.channels == 1 and image.mode not in GRAY:
        raise _MisfitError(replace(layout, channels=3))
    if layout.cropped or image.size == (layout.width, layout.height):
        return
    if image_size is None:
        raise DataError(
            f"{path}: {image.width}x{image.height} pixels among images of "
            f"{layout.width}x{layout.height}: resize it, or set data.image_size=PIXELS for all"
        )
    raise _MisfitError(Layout(layout.channels, image_size, image_size, cropped=True))


def _pixels(image: Image.Image, channels: int, layout: Layout | None) -> np.ndarray:
    image = plain_mode(image, "L" if channels == 1 else "RGB")
    if layout is not None and layout.cropped:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((layout.width, layout.height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)
