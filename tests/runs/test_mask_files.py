"""Files of masks: they come back bit for bit, and damaged ones are refused."""

import json

import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from prunekit.errors import CheckpointError
from prunekit.runs import mask_files

BITS = arrays.arrays(bool, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


@given(masks=st.dictionaries(st.text(max_size=8), BITS, max_size=4))
def test_masks_of_any_shape_come_back(folder, masks):
    masks = {name: torch.tensor(bits) for name, bits in masks.items() if name != "__metadata__"}
    mask_files.write_masks(folder / "m", masks)
    back = mask_files.read_masks(folder / "m")
    assert back.keys() == masks.keys()
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())
    assert all(mask.dtype == torch.bool for mask in back.values())


def test_masks_take_one_bit_an_entry(tmp_path):
    mask_files.write_masks(tmp_path / "m", {"w": torch.ones(1000, 1000, dtype=torch.bool)})
    assert (tmp_path / "m").stat().st_size < 1000 * 1000 / 8 + 1000


@pytest.fixture(scope="module")
def written(folder):
    masks = {"a.weight": torch.arange(77).reshape(7, 11) % 3 == 0, "b": torch.tensor(True)}
    mask_files.write_masks(folder / "whole", masks)
    return masks, (folder / "whole").read_bytes()


@given(data=st.data())
def test_masks_cut_short_are_refused(folder, written, data):
    content = written[1]
    (folder / "cut").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CheckpointError, match="cut"):
        mask_files.read_masks(folder / "cut")


@given(data=st.data())
def test_masks_with_a_flipped_bit_are_refused(folder, written, data):
    masks, content = written
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "flipped").write_bytes(damaged)
    try:
        back = mask_files.read_masks(folder / "flipped")
    except CheckpointError:
        return
    # a flip in the header may change nothing of the content, such as in the name of the digest
    assert position < len(content) - 11
    assert all(torch.equal(back[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize(
    ("shapes", "packed"),
    [
        ({"w": [9]}, torch.zeros(1, dtype=torch.uint8)),
        ({"w": [-1, -8]}, torch.zeros(1, dtype=torch.uint8)),
        ({"w": [8]}, torch.zeros(1, dtype=torch.int8)),
        ({"w": [10**12]}, torch.zeros(1, dtype=torch.uint8)),
        ({"other": [8]}, torch.zeros(1, dtype=torch.uint8)),
        ({"w": "8"}, torch.zeros(1, dtype=torch.uint8)),
        ([], torch.zeros(1, dtype=torch.uint8)),
    ],
)
def test_masks_whose_shapes_lie_are_refused(tmp_path, shapes, packed):
    metadata = {"format": mask_files.MASKS_FORMAT, "shapes": json.dumps(shapes)}
    save_file({"w": packed}, tmp_path / "m", metadata)
    with pytest.raises(CheckpointError, match="do not match"):
        mask_files.read_masks(tmp_path / "m")


def test_other_files_are_no_masks(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="not a file of masks"):
        mask_files.read_masks(tmp_path / "weights")
    (tmp_path / "page").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="page: corrupt"):
        mask_files.read_masks(tmp_path / "page")
    with pytest.raises(CheckpointError, match="no such file"):
        mask_files.read_masks(tmp_path / "none")
