"""Leave out of a JPEG what need not be decoded for a part of its pixels, which stay the same bits.

Decoding costs more than all else that is done to an image, and a random crop needs half of it.
Packed images consist of tiles, parts between restart markers, each of which decodes by itself; they
say how long each is. Those that a crop needs make a JPEG of their own, once their markers are
numbered anew. Other JPEGs decode from the first block on only: they are made to end below the crop.
"""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate

import numpy as np

from prunekit.data.jpeg_header import APP4, SIDE, TILES, Frame, jpeg_frame

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""
END, RESTART = b"\xff\xd9", 0xD0
LONGEST = 0xFFFF
"""Bytes of a tile or of a part of a header that two bytes can tell."""


def tiles_of_box(data: bytes, frame: Frame, box: Box) -> tuple[bytearray, Box] | None:
    """A JPEG of the tiles that a box lies in, and where the box is in it.

    Args:
        data: a JPEG.
        frame: what `jpeg_frame` says of it.
        box: inside the image.

    Returns:
        None where the image has no tiles, or all are needed.
    """
    if (grid := _grid(data, frame)) is None:
        return None
    tall, wide, columns, edges = grid
    (top, bottom), (left, right) = _needed(frame, box)
    top, bottom, left, right = top // tall, -(-bottom // tall), left // wide, -(-right // wide)
    if (bottom - top) * (right - left) == len(edges) - 1:
        return None
    height = min(frame.height, bottom * tall) - top * tall
    width = min(frame.width, right * wide) - left * wide
    part = bytearray(data[: frame.scan])
    part[frame.size_at : frame.size_at + 4] = height.to_bytes(2) + width.to_bytes(2)
    number = 0
    for row in range(top * columns, bottom * columns, columns):
        begin, *ends = edges[row + left : row + right + 1]
        moved = len(part) - begin - 1
        part += data[begin : ends[-1]]
        for end in ends:
            part[end + moved] = RESTART + number
            number = number + 1 & 7
    part[-2:] = END
    return part, (box[0] - top * tall, box[1] - left * wide, box[2], box[3])


def down_to_box(data: bytes, frame: Frame, box: Box) -> bytes:
    """The same JPEG, said to end below a box; itself where nothing is gained or its end is missing.

    Decoders find that more follows: only for one that keeps it to itself.
    """
    if frame.block is None or data.rfind(END, frame.scan) < 0:
        return data
    bottom = _needed(frame, box)[0][1]
    height = -(-bottom // frame.block[0]) * frame.block[0]
    if height >= frame.height:
        return data
    return b"".join((data[: frame.size_at], height.to_bytes(2), data[frame.size_at + 2 :]))


def blocks_of_a_tile(width: int, block: int) -> int:
    """How many blocks between two restart markers give tiles that fill a row, near 32 pixels wide.

    Narrower ones take more bytes, four or so each; of wider ones more lies beside a crop.
    """
    across = -(-width // block)
    fill = (n for n in range(1, across + 1) if across % n == 0 and n * block >= 16)
    return min(fill, key=lambda n: abs(n * block - 32), default=across)


def with_tiles(data: bytes) -> bytes:
    """A JPEG that says how long its tiles are; itself where it has none, or they are too long."""
    frame = jpeg_frame(data)
    if frame is None or (tile := _tile(frame)) is None:
        return data
    coded = np.frombuffer(data, np.uint8, offset=frame.scan)
    after = np.flatnonzero(coded[:-1] == 0xFF) + 1
    ends = after[coded[after] != 0] + 1  # else 0xFF is a byte of the code
    if len(ends) != -(-frame.height // tile[0]) * -(-frame.width // tile[1]):
        return data
    lengths = np.diff(ends, prepend=0)
    size = 2 + len(TILES) + 2 * len(lengths)
    if max(int(lengths.max()), size) > LONGEST:
        return data
    told = size.to_bytes(2) + TILES + lengths.astype("<u2").tobytes()
    return b"".join((data[:2], bytes((0xFF, APP4)), told, data[2:]))


def _tile(frame: Frame) -> tuple[int, int] | None:
    """Height and width in pixels of what is between two restart markers, where it fills rows."""
    if frame.block is None or not frame.restart:
        return None
    down, across = frame.block
    fills = -(-frame.width // across) % frame.restart == 0
    return (down, across * frame.restart) if fills else None


def _grid(data: bytes, frame: Frame) -> tuple[int, int, int, list[int]] | None:
    """Height and width of a tile, tiles in a row, and where each begins and the last one ends."""
    if frame.tiles is None or (tile := _tile(frame)) is None:
        return None
    begin, end = frame.tiles
    lengths = array("H", data[begin : end - (end - begin) % 2])
    if sys.byteorder == "big":
        lengths.byteswap()
    columns = -(-frame.width // tile[1])
    edges = list(accumulate(lengths, initial=frame.scan))
    whole = len(lengths) == -(-frame.height // tile[0]) * columns
    if not whole or edges[-1] != len(data) or not data.endswith(END):
        return None
    return *tile, columns, edges


def _needed(frame: Frame, box: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    """From where to where pixels are needed for those of a box, down and across.

    Colour that is stored at half the pixels is smoothed by that of the next ones, in an image of
    more than two of it.
    """
    assert frame.block is not None
    found = []
    for begin, length, block, whole in zip(box[:2], box[2:], frame.block, frame[:2], strict=True):
        next_to = block // SIDE
        first = max(0, min(begin - next_to, whole - 4 * next_to))
        found.append((first, min(whole, begin + length + next_to)))
    return found[0], found[1]
