"""A window of an encoded image, at the size that is wanted: what is done to each image of a stream.

JPEGs are decoded by torchcodec where it is installed, which takes less time than Pillow; both build
on libjpeg-turbo, and a test finds their pixels equal. All other formats, CMYK and JPEGs that are
much larger than what is wanted are decoded by Pillow, whichever of the two is there.
"""

from __future__ import annotations

import errno
import importlib
import io
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunekit.data.images import FORMATS, GRAY, check_readable, plain_mode, why_broken
from prunekit.data.jpeg_header import jpeg_frame
from prunekit.data.jpeg_part import Box, down_to_box, tiles_of_box
from prunekit.data.resizing import resize_pixels
from prunekit.data.sources import Interpolation, Window
from prunekit.errors import DataError, PrunekitError, ResourceError

Decoder = Literal["torchcodec", "pillow"]
REDUCTIONS = (8, 4, 2)
"""What libjpeg can divide a side by while it decodes."""
LEFT_TO_RESIZE = 2
"""By so much at least is resized after that: the result is near that of the whole image."""
NOT_OF_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ColourError(Exception):
    """An image in colour, where the first ones of its set are gray."""


class Take(NamedTuple):
    """What is wanted of an image."""

    channels: int
    """1 = gray, 3 = RGB."""
    window: Window
    size: tuple[int, int]
    """Height and width of what comes out."""
    interpolation: Interpolation = "bilinear"


@cache
def best_decoder() -> tuple[Decoder, str]:
    """What decodes JPEGs here, and why it is not torchcodec where that is installed but fails."""
    try:
        version("torchcodec")
    except PackageNotFoundError:
        return "pillow", ""
    try:
        _torchcodec()
    except (ImportError, OSError, RuntimeError) as error:  # built for another torch
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return "pillow", f"torchcodec {version('torchcodec')} cannot be used: {reason}"
    return "torchcodec", ""


def decoder_version(decoder: Decoder) -> str:
    """Its name and version, such as `torchcodec 0.17.0`; of Pillow with that of libjpeg-turbo."""
    if decoder == "torchcodec":
        return f"torchcodec {version('torchcodec')}"
    from PIL import features

    turbo = features.version("libjpeg_turbo") if features.check("libjpeg_turbo") else None
    return f"Pillow {version('pillow')}" + (f" with libjpeg-turbo {turbo}" if turbo else "")


@cache
def _torchcodec() -> Any:
    return importlib.import_module("torchcodec.decoders").decode_jpeg


def decode_named(what: object, data: bytes, take: Take, decoder: Decoder) -> Tensor:
    """As `decode_window`.

    Raises:
        DataError: whatever is wrong with the image; begins with the text of `what`.
        ResourceError: the memory is not enough, which is not the fault of the image.
    """
    try:
        return decode_window(data, take, decoder)
    except ColourError as error:
        raise DataError(f"{what}: {error}") from error
    except PrunekitError:  # of the window, which knows what it is about
        raise
    except MemoryError as error:
        raise undecoded(what) from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        reason = why_broken(error)
        raise DataError(f"{what}: cannot be decoded: {reason}: replace or remove it") from error


def undecoded(what: object) -> ResourceError:
    """The error where the memory is not enough for an image, which may be whole."""
    return ResourceError(f"{what}: not enough memory to decode it: free some")


def unread(path: Path, error: OSError) -> PrunekitError:
    """The error for a file that cannot be read: what the machine lacks is no fault of the file."""
    reason = f"{path}: cannot be read: {error.strerror or error}"
    if error.errno in NOT_OF_THE_FILE:
        return ResourceError(f"{reason}: free some")
    return DataError(f"{reason}: replace or remove it")


def decode_window(data: bytes, take: Take, decoder: Decoder) -> Tensor:
    """Decode a part of an image and resize it.

    Alpha is dropped and EXIF rotation ignored, as where a set is decoded into memory.

    Args:
        data: a file of one of `FORMATS`.
        take: what is wanted of it.
        decoder: of JPEGs.

    Returns:
        uint8 [take.channels, *take.size].

    Raises:
        ColourError: an image in colour where gray ones are wanted.
        Exception: whatever a decoder raises at a broken file.
    """
    frame = jpeg_frame(data)
    if frame is None or frame.components == 4:
        return _by_pillow(data, take)
    check_readable(frame.width, frame.height, "L" if frame.components == 1 else "RGB")
    _check_colour(frame.components == 1, take.channels)
    box = take.window(frame.height, frame.width)
    if reduction(box, take.size) > 1:
        return _by_pillow(data, take._replace(window=lambda *_: box))
    coded: bytes | bytearray = data
    if tiles := tiles_of_box(data, frame, box):
        coded, box = tiles
    elif decoder == "pillow":
        coded = down_to_box(data, frame, box)
    if decoder == "pillow":
        part = _part_by_pillow(coded, take.channels, box)
        return resize_pixels(part, take.size, take.interpolation).contiguous()
    if frame.exif:  # torchcodec would obey it
        coded = _without(coded, frame.exif)
    encoded = torch.frombuffer(bytearray(coded), dtype=torch.uint8)  # of bytes torch would warn
    whole = _torchcodec()(encoded, mode="GRAY" if take.channels == 1 else "RGB")
    return _resized(whole, box, take)


def is_gray(head: bytes) -> bool | None:
    """Whether an image is gray, by its first bytes; None where they do not tell."""
    frame = jpeg_frame(head)
    if frame is not None:
        return frame.components == 1
    try:
        with Image.open(io.BytesIO(head), formats=FORMATS) as image:
            return image.mode in GRAY
    except Exception:  # broken, or its header is longer
        return None


def reduction(box: Box, size: tuple[int, int]) -> int:
    """What libjpeg divides the sides by while it decodes, where `box` is resized to `size`."""
    by = min(box[2] / size[0], box[3] / size[1]) / LEFT_TO_RESIZE
    return next((one for one in REDUCTIONS if one <= by), 1)


def _without(data: bytes | bytearray, parts: Sequence[tuple[int, int]]) -> bytes:
    """Without what lies in `parts`, from begin to end, in rising order."""
    begins, ends = [0, *(end for _, end in parts)], [*(begin for begin, _ in parts), len(data)]
    return b"".join(data[a:b] for a, b in zip(begins, ends, strict=True))


def _check_colour(gray: bool, channels: int) -> None:
    if channels == 1 and not gray:
        raise ColourError(
            "an image in colour among gray ones: convert it, or pack the set (`prunekit data "
            "pack`), which looks at each image first"
        )


def _part_by_pillow(data: bytes | bytearray, channels: int, box: Box) -> Tensor:
    top, left, tall, wide = box
    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        part = image.crop((left, top, left + wide, top + tall))  # what is left out is not copied
        return _tensor(part if part.mode == mode else part.convert(mode))


def _by_pillow(data: bytes, take: Take) -> Tensor:
    """Any format; a JPEG that is much larger than what is wanted is made smaller as it is read."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_readable(image.width, image.height, image.mode)
        _check_colour(image.mode in GRAY, take.channels)
        height, width = image.height, image.width
        box = take.window(height, width)
        mode = "L" if take.channels == 1 else "RGB"
        plain = image.format == "JPEG" and image.mode in ("L", "RGB")
        by = reduction(box, take.size) if plain else 1
        if by == 1:
            return _resized(_tensor(plain_mode(image, mode)), box, take)
        image.draft(image.mode, (width // by, height // by))
        down, across = image.height / height, image.width / width
        top, left, tall, wide = box
        corners = (left * across, top * down, (left + wide) * across, (top + tall) * down)
        resampling = RESAMPLING[take.interpolation]
        return _tensor(image.convert(mode).resize(take.size[::-1], resampling, box=corners))


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.unsqueeze(0)


def _resized(whole: Tensor, box: Box, take: Take) -> Tensor:
    """The box of an image, by the kernel that resizes sets in memory."""
    top, left, tall, wide = box
    part = whole[:, top : top + tall, left : left + wide]
    return resize_pixels(part, take.size, take.interpolation).contiguous()
