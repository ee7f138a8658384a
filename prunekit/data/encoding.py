"""An image made small enough to be packed, by Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from prunekit.data.decoding import reduction, undecoded, unread
from prunekit.data.images import FORMATS, GRAY, check_readable, plain_mode, why_broken
from prunekit.data.jpeg_header import SIDE, jpeg_frame
from prunekit.data.jpeg_part import blocks_of_a_tile, with_tiles
from prunekit.errors import DataError
from prunekit.foundation.files import read_bytes


class Encoded(NamedTuple):
    """An image as it is packed."""

    data: bytes
    height: int
    width: int
    gray: bool


def encode(path: Path, side: int, quality: int) -> Encoded:
    """An image with a shorter side of at most `side` pixels, as a JPEG.

    A JPEG that is small enough stays as it is, byte for byte. Alpha, EXIF and colour profiles are
    left out of what is written anew.

    Args:
        path: of the image.
        side: pixels; nothing is made larger.
        quality: 1 .. 100, of libjpeg.

    Raises:
        DataError: it cannot be read or decoded; begins with the path.
        ResourceError: the memory or files that may be open are not enough.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise unread(path, error) from error
    try:
        return encode_bytes(data, side, quality)
    except MemoryError as error:
        raise undecoded(path) from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        reason = why_broken(error)
        raise DataError(f"{path}: cannot be decoded: {reason}: replace or remove it") from error


def encode_bytes(data: bytes, side: int, quality: int) -> Encoded:
    """As `encode`, of the bytes of a file.

    Raises:
        Exception: whatever Pillow raises at a broken file.
    """
    frame = jpeg_frame(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_readable(image.width, image.height, image.mode)
        gray, (width, height) = image.mode in GRAY, image.size
        short = min(width, height)
        if short <= side and frame is not None and frame.components != 4:
            image.load()  # a broken one is to be told now
            return Encoded(data, height, width, gray)
        size = (height, width)
        if short > side:
            size = (max(1, side * height // short), max(1, side * width // short))
        by = 1 if frame is None else reduction((0, 0, height, width), size)
        if by > 1 and image.mode in ("L", "RGB"):
            image.draft(image.mode, (width // by, height // by))
        small = plain_mode(image, "L" if gray else "RGB")
        if small.size != size[::-1]:
            small = small.resize(size[::-1], Image.Resampling.BILINEAR)
        file = io.BytesIO()
        block = SIDE if gray else 2 * SIDE  # colour is stored at half the pixels
        restart = blocks_of_a_tile(size[1], block)
        small.save(file, "JPEG", quality=quality, restart_marker_blocks=restart)
    return Encoded(with_tiles(file.getvalue()), *size, gray)
