"""A JPEG of which something is left out: the pixels that are wanted are those of the whole one."""

import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from PIL import Image

from prunekit.data.decoding import Take, decode_named, decode_window
from prunekit.data.encoding import encode_bytes
from prunekit.data.jpeg_header import TILES, jpeg_frame
from prunekit.data.jpeg_part import blocks_of_a_tile, down_to_box, tiles_of_box, with_tiles
from prunekit.errors import DataError

DECODERS = ("torchcodec", "pillow")


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Nothing in it is like its neighbour, so that a pixel of another place shows."""
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def of_all(data: bytes, box: tuple[int, int, int, int]) -> torch.Tensor:
    """The oracle: all of it decoded by Pillow, then cut."""
    top, left, tall, wide = box
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[
        :, top : top + tall, left : left + wide
    ]


def window(data: bytes, box: tuple[int, int, int, int], decoder: str) -> torch.Tensor:
    channels = jpeg_frame(data).components
    return decode_window(data, Take(channels, lambda *_: box, box[2:]), decoder)


@st.composite
def boxes(draw, most: int = 90):
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    tall, wide = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return height, width, (top, left, tall, wide)


@settings(max_examples=300, deadline=None)
@given(
    case=boxes(),
    mode=st.sampled_from(["L", "RGB"]),
    subsampling=st.integers(0, 2),
    restart=st.integers(1, 7),
    progressive=st.booleans(),
)
def test_any_part_has_the_pixels_of_the_whole(case, mode, subsampling, restart, progressive):
    height, width, box = case
    options = {"subsampling": subsampling, "progressive": progressive}
    image = noise(width, height, mode)
    for data in (
        jpeg(image, **options),
        with_tiles(jpeg(image, restart_marker_blocks=restart, **options)),
    ):
        want = of_all(data, box)
        for decoder in DECODERS:
            assert torch.equal(window(data, box, decoder), want)


@settings(max_examples=60, deadline=None)
@given(case=boxes(most=130), mode=st.sampled_from(["L", "RGB"]))
def test_what_is_packed_has_the_pixels_that_it_had_without_tiles(case, mode):
    height, width, box = case
    assume(min(height, width) > 4)
    source, side = jpeg(noise(width, height, mode)), min(height, width) - 1
    data, *_ = encode_bytes(source, side, 90)
    with Image.open(io.BytesIO(source)) as image:
        size = (max(1, side * width // (side + 1)), max(1, side * height // (side + 1)))
        plain = jpeg(image.resize(size, Image.Resampling.BILINEAR))
    whole = (0, 0, *size[::-1])
    assert torch.equal(of_all(data, whole), of_all(plain, whole))
    tall, wide = min(box[2], size[1]), min(box[3], size[0])
    part = (min(box[0], size[1] - tall), min(box[1], size[0] - wide), tall, wide)
    for decoder in DECODERS:
        assert torch.equal(window(data, part, decoder), of_all(plain, part))


@pytest.mark.parametrize("width", [17, 18, 19, 20, 21])
def test_a_narrow_last_tile_is_smoothed_as_in_the_whole(width):
    """Alone it would not be: libjpeg-turbo does it from three samples of colour on."""
    data = with_tiles(jpeg(noise(width, 32), restart_marker_blocks=1))
    for left in range(16, width):
        box = (3, left, 9, width - left)
        for decoder in DECODERS:
            assert torch.equal(window(data, box, decoder), of_all(data, box))


PACKED = with_tiles(jpeg(noise(341, 256), restart_marker_blocks=2))
PLAIN = jpeg(noise(341, 256))
BOX = (70, 120, 60, 90)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("data", [PACKED, PLAIN], ids=["tiles", "plain"])
def test_nothing_is_written_about_what_was_left_out(decoder, data, capfd):
    window(data, BOX, decoder)
    assert capfd.readouterr() == ("", "")


def test_only_the_tiles_around_a_box_are_left():
    part, box = tiles_of_box(PACKED, jpeg_frame(PACKED), BOX)
    assert jpeg_frame(bytes(part))[:2] == (80, 128)  # rows 64 .. 144, columns 96 .. 224
    assert box == (6, 24, 60, 90)
    assert len(part) < 0.2 * len(PACKED)
    assert tiles_of_box(PACKED, jpeg_frame(PACKED), (0, 0, 256, 341)) is None


def test_an_image_without_tiles_ends_below_the_box():
    short = down_to_box(PLAIN, jpeg_frame(PLAIN), BOX)
    assert jpeg_frame(short)[:2] == (144, 341)
    assert down_to_box(PLAIN, jpeg_frame(PLAIN), (250, 0, 6, 6)) is PLAIN


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("data", [PACKED, PLAIN], ids=["tiles", "plain"])
def test_a_truncated_image_is_told_by_a_box_above_the_break(data, decoder):
    take = Take(3, lambda *_: (0, 0, 20, 20), (20, 20))
    with pytest.raises(DataError, match="x: cannot be decoded"):
        decode_named("x", data[: len(data) * 3 // 4], take, decoder)


@given(st.data())
def test_lengths_that_do_not_fit_are_not_used(data):
    begin = PACKED.index(TILES) + len(TILES)
    at = begin + data.draw(st.integers(0, 2 * 176 - 1))
    wrong = PACKED[:at] + bytes([PACKED[at] ^ data.draw(st.integers(1, 255))]) + PACKED[at + 1 :]
    assert tiles_of_box(wrong, jpeg_frame(wrong), BOX) is None
    assert torch.equal(window(wrong, BOX, "torchcodec"), of_all(PACKED, BOX))


@given(width=st.integers(1, 5000), block=st.sampled_from([8, 16]))
def test_tiles_fill_the_rows(width, block):
    blocks, across = blocks_of_a_tile(width, block), -(-width // block)
    assert across % blocks == 0
    assert blocks * block >= 16 or across == 1
    if across % (32 // block) == 0:
        assert blocks * block == 32


def test_tiles_are_not_told_where_there_are_none():
    plain = jpeg(noise(64, 64))
    assert with_tiles(plain) is plain
    askew = jpeg(noise(64, 64), restart_marker_blocks=3)  # of four in a row
    assert with_tiles(askew) is askew
