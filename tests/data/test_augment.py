"""Batched augmentation and resizing against slow oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from prunekit.data.augment.shift import cut, draw, padding
from prunekit.data.pixel_statistics import pixel_statistics
from prunekit.data.resizing import resize


def slow_cut(images, choices, pads):
    """One sample at a time, by slices."""
    (down, right), result = pads, []
    height, width = images.shape[2:]
    for image, (flip, top, left) in zip(images.numpy(), choices.T.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (down, down), (right, right)))
        window = padded[:, top : top + height, left : left + width]
        result.append(window[:, :, ::-1] if flip else window)
    return torch.from_numpy(np.stack(result))


@given(
    st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(0, 2**32),
)
def test_cut_equals_slices_of_one_sample_at_a_time(shape, pads, seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    high = np.array([[2], [2 * pads[0] + 1], [2 * pads[1] + 1]])
    choices = torch.from_numpy(rng.integers(0, high, (3, shape[0])))
    assert torch.equal(cut(images, choices, pads), slow_cut(images, choices, pads))


def test_draws_cover_their_range_and_do_not_depend_on_each_other():
    both = draw(("flip", "crop"), (1, 2), 5000, seed=1, step=2)
    assert [sorted(set(row.tolist())) for row in both] == [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4]]
    for row in both:
        counts = torch.bincount(row).double() / 5000
        assert counts.tolist() == pytest.approx([1 / len(counts)] * len(counts), abs=0.03)
    assert not torch.equal(both[1] % 2, both[0])
    flips, crops = draw(("flip",), (0, 0), 5000, 1, 2), draw(("crop", "flip"), (1, 2), 5000, 1, 2)
    assert torch.equal(flips[0], both[0])
    assert torch.equal(crops, both)
    assert not flips[1:].any()
    for other in (draw(("flip",), (0, 0), 5000, 1, 3), draw(("flip",), (0, 0), 5000, 2, 2)):
        assert not torch.equal(other, flips)


@pytest.mark.parametrize(("side", "pad"), [(1, 1), (8, 1), (15, 1), (28, 3), (32, 4), (224, 28)])
def test_a_crop_shifts_by_an_eighth(side, pad):
    assert padding(side) == pad


@given(
    st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 24),
)
def test_resize_equals_pillow(shape, side):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(side)) * 255
    found = resize(images, side)
    assert found.shape == (*shape[:2], side, side)
    assert found.is_contiguous()
    square = min(shape[2:])
    top, left = (shape[2] - square) // 2, (shape[3] - square) // 2
    middle = images[:, :, top : top + square, left : left + square]
    for plane, expected in zip(found.flatten(0, 1), middle.flatten(0, 1), strict=True):
        image = Image.fromarray(expected.numpy()).resize((side, side), Image.Resampling.BILINEAR)
        assert plane.numpy() == pytest.approx(np.asarray(image), abs=2e-3)


@given(st.tuples(st.integers(1, 30), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
def test_statistics_equal_numpy_in_double(shape):
    images = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    mean, std = pixel_statistics(torch.from_numpy(images))
    assert mean.numpy() == pytest.approx(images.mean((0, 2, 3)))
    assert std.numpy() == pytest.approx(np.maximum(images.std((0, 2, 3)), 1))


def test_a_constant_channel_has_the_least_deviation():
    images = torch.full((2000, 2, 3, 3), 255, dtype=torch.uint8)
    images[:1000, 1] = 0
    mean, std = pixel_statistics(images)
    assert mean.tolist() == [255, 127.5]
    assert std.tolist() == [1, 127.5]
