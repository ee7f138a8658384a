"""Code of others without its waits gives the same values."""

import pytest
import torch

from prunekit.data.augment.no_waits import NoWaits
from prunekit.data.augment.operations import OPERATIONS

CALLS = [(family, name) for family, known in OPERATIONS.items() for name in known]


@pytest.mark.parametrize(("family", "name"), CALLS, ids=[" ".join(call) for call in CALLS])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_give_the_same_pixels(family, name, channels):
    one = OPERATIONS[family][name]
    images = torch.randint(256, (4, channels, 12, 9), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    images[0] = 7  # of one value: a range of nothing to stretch
    for strength in {one.strengths(12, 9)[level][sign] for level in (0, 17, 30) for sign in (0, 1)}:
        for interpolation in ("nearest", "bilinear"):
            expected = one.kernel(images.clone(), strength, interpolation)
            with NoWaits():
                found = one.kernel(images.clone(), strength, interpolation)
            assert torch.equal(found, expected)


def test_what_is_made_is_what_torch_makes():
    mask = torch.tensor([True, False, True])
    rows = torch.arange(6.0).view(3, 2)
    with NoWaits():
        made = torch.tensor([1, 2], dtype=torch.float64, device="cpu")
        kept = torch.as_tensor(rows, device="cpu")
        filled = torch.arange(3.0)
        filled[mask] = -1
        rows[mask] = 9.0  # a mask of rows
        rows[mask] = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device="cpu")
        rows[1, 0] = 8.0
    assert made.dtype == torch.float64
    assert made.tolist() == [1, 2]
    assert kept is rows
    assert filled.tolist() == [-1, 1, -1]
    assert rows.tolist() == [[1, 2], [8, 3], [3, 4]]
