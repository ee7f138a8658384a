"""A window of an encoded image: what both decoders make of it, and what neither takes."""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import v2

from prunekit.data import decoding
from prunekit.data.decoding import (
    Take,
    best_decoder,
    decode_named,
    decode_window,
    decoder_version,
    is_gray,
    reduction,
)
from prunekit.data.jpeg_header import jpeg_frame
from prunekit.errors import DataError

DECODERS = ("torchcodec", "pillow")


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, as photographs have it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def pillow_pixels(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_both_decoders_are_here():
    assert best_decoder() == ("torchcodec", "")
    assert decoder_version("torchcodec").startswith("torchcodec 0.")
    assert decoder_version("pillow").startswith("Pillow ")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_window_is_torchvisions_resized_crop(decoder, interpolation):
    data = encoded(picture(97, 71), quality=90)
    got = decode_window(
        data, Take(3, lambda h, w: (7, 11, 50, 60), (24, 32), interpolation), decoder
    )
    resample = v2.InterpolationMode(interpolation)
    want = v2.functional.resized_crop(
        pillow_pixels(data), 7, 11, 50, 60, [24, 32], interpolation=resample, antialias=True
    )
    assert torch.equal(got, want)
    assert got.is_contiguous()


KINDS = {
    "colour": encoded(picture(40, 30)),
    "colour, all chroma": encoded(picture(40, 30), subsampling=0),
    "progressive": encoded(picture(40, 30), progressive=True),
    "gray JPEG": encoded(picture(40, 30, "L")),
    "CMYK": encoded(picture(40, 30, "CMYK")),
    "turned by EXIF": encoded(
        picture(40, 30),
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
    "PNG": encoded(picture(40, 30), "PNG"),
    "gray PNG": encoded(picture(40, 30, "L"), "PNG"),
    "alpha": encoded(picture(40, 30, "RGBA"), "PNG"),
    "palette": encoded(picture(40, 30).quantize(16), "PNG", transparency=3),
    "one bit": encoded(picture(40, 30, "1"), "PNG"),
    "BMP": encoded(picture(40, 30), "BMP"),
    "TIFF": encoded(picture(40, 30), "TIFF"),
    "PPM": encoded(picture(40, 30), "PPM"),
    "WebP": encoded(picture(40, 30), "WEBP"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_what_a_set_in_memory_has(kind, decoder, tmp_path):
    """The decoder of sets in memory is the oracle: `image_folder` may stream the same folder."""
    from prunekit.data.images import decode

    path = tmp_path / "image"
    path.write_bytes(KINDS[kind])
    [want] = decode([path], None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = decode_window(KINDS[kind], Take(len(want), whole, (30, 40)), decoder)
    assert torch.equal(got, want)
    assert is_gray(KINDS[kind]) is (len(want) == 1)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_large_jpeg_is_made_smaller_as_it_is_read(decoder, monkeypatch):
    data = encoded(picture(1600, 1200), quality=92)
    take = Take(3, lambda h, w: (100, 200, 1000, 1200), (64, 72))
    fast = decode_window(data, take, decoder)
    monkeypatch.setattr(decoding, "REDUCTIONS", ())
    slow = decode_window(data, take, decoder)
    difference = (fast.int() - slow.int()).abs().float()
    assert 0 < float(difference.mean()) < 1.5  # else nothing was made smaller, or it is another
    assert float(difference.max()) <= 8


@given(
    box=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
)
def test_at_least_half_is_left_to_the_resizing(box, size):
    by = reduction((0, 0, *box), size)
    assert by in (1, 2, 4, 8)
    assert by == 1 or all(side >= 2 * by * out for side, out in zip(box, size, strict=True))
    more = 2 * by
    assert by == 8 or any(side < 2 * more * out for side, out in zip(box, size, strict=True))


@settings(max_examples=25)
@given(
    width=st.integers(1, 40), height=st.integers(1, 40), mode=st.sampled_from(["L", "RGB", "CMYK"])
)
def test_the_header_says_what_pillow_says(width, height, mode):
    data = encoded(picture(width, height, mode), progressive=bool(width % 2))
    assert jpeg_frame(data)[:3] == (height, width, {"L": 1, "RGB": 3, "CMYK": 4}[mode])


@given(st.binary(max_size=60), st.integers(0, 400))
def test_no_header_breaks_its_reader(noise, at):
    good = KINDS["colour"]
    for data in (noise, b"\xff\xd8" + noise, good[:at] + noise, good[:at] + noise + good[at:]):
        frame = jpeg_frame(data)
        assert frame is None or frame.components in (1, 3, 4)
        is_gray(data)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    good = KINDS["colour"]
    at = good.index(b"\xff\xc0")
    huge = good[: at + 5] + b"\xff\xff\xff\xff" + good[at + 9 :]
    for decoder in DECODERS:
        with pytest.raises(DataError, match=r"x\.jpg: cannot be decoded: 65535x65535 pixels, more"):
            decode_named("x.jpg", huge, Take(3, whole, (8, 8)), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["colour", "progressive", "gray JPEG", "CMYK", "PNG", "WebP"])
def test_a_truncated_file_is_told_in_one_line(kind, decoder):
    data = KINDS[kind]
    for length in (0, 1, 2, 20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(
            DataError, match=r"^x: cannot be decoded: .*: replace or remove it$"
        ) as e:
            decode_named(
                "x", data[:length], Take(1 if "gray" in kind else 3, whole, (8, 8)), decoder
            )
        text = str(e.value)
        assert "\n" not in text
        assert "0x" not in text
        assert ".cpp" not in text


def test_sixteen_bits_are_refused_as_in_memory():
    data = encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG")
    with pytest.raises(DataError, match=r"x: cannot be decoded: mode I;16 has more than 8 bits"):
        decode_named("x", data, Take(3, whole, (8, 8)), "torchcodec")


@pytest.mark.parametrize("kind", ["colour", "CMYK", "PNG"])
def test_colour_among_gray_images_is_told(kind):
    with pytest.raises(DataError, match=r"^x: an image in colour among gray ones: convert it"):
        decode_named("x", KINDS[kind], Take(1, whole, (8, 8)), "torchcodec")


def test_a_torchcodec_that_cannot_be_used_is_told(monkeypatch):
    def fail():
        raise OSError("libtorchcodec_image.so: undefined symbol: _ZN3c10\nmore")

    monkeypatch.setattr(decoding, "_torchcodec", fail)
    best_decoder.cache_clear()
    try:
        decoder, reason = best_decoder()
    finally:
        best_decoder.cache_clear()
    assert decoder == "pillow"
    assert reason.endswith("cannot be used: libtorchcodec_image.so: undefined symbol: _ZN3c10")
