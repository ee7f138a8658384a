"""How many bytes a file of weights would take in other forms, without writing them."""

import zlib

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.errors import CheckpointError
from prunekit.runs import sizes
from prunekit.runs.sizes import file_sizes, zipped_bytes
from prunekit.runs.tensors import packed_bytes, write_tensors


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), max_size=4))
def test_the_packed_size_is_that_of_the_file(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("packed") / "file"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"t{i}": torch.randn(n, generator=generator)
        * (torch.rand(n, generator=generator) < density)
        for i, (n, density) in enumerate(drawn)
    }
    write_tensors(path, tensors, {"a": "b"}, packed=True)
    assert packed_bytes(tensors, {"a": "b"}) == path.stat().st_size


def test_the_sizes_of_a_plain_and_of_a_packed_file(tmp_path):
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    weight[:, 10:] = 0
    for packed in (False, True):
        write_tensors(tmp_path / f"{packed}", {"w": weight}, {}, packed=packed)
    plain, packed = (file_sizes(tmp_path / name, 60) for name in ("False", "True"))
    assert plain.plain == (tmp_path / "False").stat().st_size > 40_000
    assert plain.packed == packed.packed == packed.plain == (tmp_path / "True").stat().st_size
    assert plain.packed < 1000 * 4 + 10_000 / 8 + 600
    deflated = len(zlib.compress((tmp_path / "False").read_bytes(), 6))
    assert plain.zipped == pytest.approx(deflated, rel=0.01)
    with pytest.raises(CheckpointError, match="no such file"):
        file_sizes(tmp_path / "none", 60)


def test_zipping_is_given_up_where_it_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "CHUNK", 10)
    (tmp_path / "file").write_bytes(bytes(1000))
    assert zipped_bytes(tmp_path / "file", -1) is None
    assert zipped_bytes(tmp_path / "file", 60) > 0
