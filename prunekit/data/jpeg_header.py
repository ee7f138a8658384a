"""What the header of a JPEG says, before anything of it is decoded (ITU T.81)."""

from __future__ import annotations

from typing import NamedTuple


class Frame(NamedTuple):
    """What the header of a JPEG says."""

    height: int
    width: int
    components: int
    """1 = gray, 3 = colour, 4 = CMYK."""
    exif: tuple[tuple[int, int], ...] = ()
    """Begin and end of each part that may ask for a rotation."""
    size_at: int = 0
    """Where the height is, two bytes, with the width behind it."""
    scan: int = 0
    """Where the coded blocks begin."""
    block: tuple[int, int] | None = None
    """Height and width in pixels of what is coded together, an MCU; None = they do not come one
    after the other, from the left to the right and down."""
    restart: int = 0
    """Such blocks between two markers from which decoding can begin anew; 0 = there are none."""
    tiles: tuple[int, int] | None = None
    """Begin and end of the lengths of what is between them, in a JPEG of `with_tiles`."""


FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)
START_OF_SCAN, RESTARTS, APP1, APP4 = 0xDA, 0xDD, 0xE1, 0xE4
"""Markers of the parts of a JPEG (table B.1)."""
TILES = b"prunekit tiles\0"
"""What the part with their lengths begins with."""
SIDE = 8
"""Pixels of a side of a block of coefficients."""


def jpeg_frame(data: bytes) -> Frame | None:
    """What the header of a JPEG says; None for all else, and for what Pillow is to judge."""
    if data[:2] != b"\xff\xd8":
        return None
    at, restart = 2, 0
    frame: Frame | None = None
    tiles: tuple[int, int] | None = None
    exif: list[tuple[int, int]] = []
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == START_OF_SCAN:
            return frame and frame._replace(
                exif=tuple(exif),
                scan=end,
                block=frame.block if data[at + 4] == frame.components else None,
                restart=restart,
                tiles=tiles,
            )
        if marker == 0xFF:  # fill
            end = at + 1
        elif marker in FRAMES:
            if (frame := _frame(data, at)) is None:
                return None
        elif marker == RESTARTS:
            restart = int.from_bytes(data[at + 4 : at + 6])
        elif marker == APP1 and data[at + 4 : at + 8] == b"Exif":
            exif.append((at, end))
        elif marker == APP4 and data.startswith(TILES, at + 4):
            tiles = at + 4 + len(TILES), end
        at = max(end, at + 1)
    return None


def _frame(data: bytes, at: int) -> Frame | None:
    height, width = (int.from_bytes(data[at + i : at + i + 2]) for i in (5, 7))
    components = data[at + 9]
    if data[at + 4] != 8 or components not in (1, 3, 4) or not height * width:
        return None
    coded_in_order = data[at + 1] in SEQUENTIAL
    block = _block(data[at + 11 : at + 10 + 3 * components : 3]) if coded_in_order else None
    return Frame(height, width, components, size_at=at + 5, block=block)


def _block(samplings: bytes) -> tuple[int, int] | None:
    """By how many samples each component has: across in the upper four bits, down in the lower."""
    if len(samplings) == 1 and samplings[0] != 0x11:  # of one component it means nothing
        return None
    across = max((one >> 4 for one in samplings), default=0)
    down = max((one & 15 for one in samplings), default=0)
    return (SIDE * down, SIDE * across) if across and down else None
