"""Bytes that are resized: torchvision is the oracle."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from prunekit.data.resizing import resize_pixels

sides = st.integers(4, 60)
"""torch 2.11 ends with an error of its own at images of a pixel, torchvision's as well."""


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@settings(max_examples=100, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    size=st.tuples(sides, sides),
    to=st.tuples(sides, sides),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bytes_are_resized_as_torchvision_does_it(interpolation, channels, size, to, last, seed):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(
        0, 256, (size[0] + 2, size[1] + 3, channels), dtype=torch.uint8, generator=generator
    ).permute(2, 0, 1)
    part = whole[:, 1 : 1 + size[0], 2 : 2 + size[1]]  # as a crop lies in what was decoded
    part = part if last else part.contiguous()
    how = InterpolationMode(interpolation)
    want = functional.resize(part, list(to), interpolation=how, antialias=True)
    got = resize_pixels(part, to, interpolation)
    assert got.dtype == torch.uint8
    assert torch.equal(got, want)
