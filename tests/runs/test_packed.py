"""Packed tensors: bit for bit what went in, never more bytes, and no trust in a file."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from prunekit.errors import CheckpointError
from prunekit.runs.packed import BITMASK, PACKED, VALUES, pack, unpack
from prunekit.runs.tensors import METADATA, read_tensors, write_tensors

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
OF_TWO_BYTES = (torch.float16, torch.bfloat16)


def raw(tensor):
    """The bytes of a tensor, and what else must come back."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


@st.composite
def tensors(draw):
    """Any bits: -0.0, NaN, infinities and subnormals among them; of a share all are zero."""
    shape = draw(st.lists(st.integers(0, 40), min_size=0, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    there = torch.from_numpy(rng.random(math.prod(shape)) < density)
    width = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    bits = torch.from_numpy(rng.integers(0, high, (len(there), width), dtype=np.uint8))
    bits = bits * there.unsqueeze(-1)
    return bits.reshape(-1).view(dtype).reshape(shape)


NAMES = st.sampled_from(["a", "b.weight", "c", "c.bitmask", "c.values", "d" * 60])


@given(st.dictionaries(NAMES, tensors(), max_size=5))
def test_a_packed_file_gives_back_every_bit(tmp_path_factory, given):
    path = tmp_path_factory.getbasetemp() / "packed.safetensors"
    write_tensors(path, given, {"key": "value"}, packed=True)
    back, metadata = read_tensors(path)
    assert metadata == {"key": "value"}
    assert {name: raw(t) for name, t in back.items()} == {n: raw(t) for n, t in given.items()}


@given(tensors())
def test_a_tensor_is_packed_only_where_that_is_smaller(tensor):
    stored, metadata = pack({"w": tensor})
    bytes_there = sum(t.nbytes for t in stored.values())
    assert bytes_there <= tensor.nbytes
    if metadata:
        nonzero = (tensor.contiguous().reshape(-1, 1).view(torch.uint8) != 0).any(1).sum()
        assert bytes_there == int(nonzero) * tensor.element_size() + -(-tensor.numel() // 8)
        assert set(stored) == {"w.bitmask", "w.values"}


@pytest.mark.parametrize("dtype", [torch.float32, *OF_TWO_BYTES])
def test_signed_zeros_and_not_a_number_stay(dtype):
    tensor = torch.zeros(4000, dtype=dtype)
    tensor[7], tensor[9], tensor[3999] = -0.0, math.nan, 1.5
    stored, metadata = pack({"w": tensor})
    assert len(stored["w.values"]) == 3
    back = unpack(stored, metadata)["w"]
    assert raw(back) == raw(tensor)
    assert math.copysign(1, back[7]) == -1


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9, 0.98, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_keeps_to_its_bound(tmp_path, sparsity, dtype):
    """Non-zero bytes and a bit an entry of what is packed, plain bytes of the rest, and 1 %."""
    generator = torch.Generator().manual_seed(0)
    model = {f"blocks.{i}.weight": torch.randn(384, 1000, generator=generator) for i in range(2)}
    for weight in model.values():
        weight[torch.rand(weight.shape, generator=generator) < sparsity] = 0
    given = {n: w.to(dtype) for n, w in model.items()} | {"norm": torch.ones(384)}
    write_tensors(tmp_path / "packed", given, {}, packed=True)
    write_tensors(tmp_path / "plain", given, {})
    size = (tmp_path / "packed").stat().st_size
    assert size <= (tmp_path / "plain").stat().st_size
    bound = 384 * 4
    for name in model:
        packed = int((given[name] != 0).sum()) * given[name].element_size() + 384_000 / 8
        bound += min(packed, given[name].nbytes)
    data = size - 8 - int.from_bytes((tmp_path / "packed").read_bytes()[:8], "little")
    assert data <= 1.01 * bound


def test_a_file_in_which_nothing_is_packed_is_the_plain_one(tmp_path):
    given = {"w": torch.ones(30, 30), "empty": torch.zeros(0, 4), "one": torch.tensor(0.0)}
    for name, packed in (("a", True), ("b", False)):
        write_tensors(tmp_path / name, given, {}, packed=packed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_key_of_another_program_is_left_alone(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "f", {"packed": '{"v": [1]}'})
    assert read_tensors(tmp_path / "f")[1] == {"packed": '{"v": [1]}'}


def forged(path, shapes, **changes):
    """A packed file without a digest, with other parts or shapes than belong together."""
    weight = torch.zeros(50, 40)
    weight[3] = 1.0
    stored, _ = pack({"w": weight})
    parts = {name: tensor for name, tensor in (stored | changes).items() if tensor is not None}
    save_file(parts, path, {METADATA: json.dumps({PACKED: shapes})})


@pytest.mark.parametrize(
    ("shapes", "changes"),
    [
        ('{"w": [50, 41]}', {}),
        ('{"w": [50000000000000, 40]}', {}),
        ('{"w": [-50, -40]}', {}),
        ('{"w": [50, 40.0]}', {}),
        ('{"w": [true, 2000]}', {}),
        ('{"w": 2000}', {}),
        ('{"w": null}', {}),
        ("[]", {}),
        ("{", {}),
        ('{"w": [50, 40], "v": [8]}', {}),
        ('{"w": [50, 40]}', {"w.values": torch.ones(39)}),
        ('{"w": [50, 40]}', {"w.values": torch.ones(41)}),
        ('{"w": [50, 40]}', {"w.values": torch.ones(4, 10)}),
        ('{"w": [50, 40]}', {"w.values": None}),
        ('{"w": [50, 40]}', {"w.bitmask": None}),
        ('{"w": [50, 40]}', {"w.bitmask": torch.zeros(250, dtype=torch.int8)}),
        ('{"w": [50, 40]}', {"w.bitmask": torch.zeros(249, dtype=torch.uint8)}),
        ('{"w": [50, 39]}', {"w.bitmask": torch.full((244,), 255, dtype=torch.uint8)}),
        ('{"w": [50, 40]}', {"w": torch.ones(1)}),
        ({"w": [50, 40]}, {}),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, shapes, changes):
    forged(tmp_path / "f", shapes, **changes)
    with pytest.raises(CheckpointError, match="corrupt") as caught:
        read_tensors(tmp_path / "f")
    assert "\n" not in str(caught.value)


def test_a_bit_behind_the_last_entry_is_refused(tmp_path):
    bits = torch.tensor([0, 0, 0, 0b1000], dtype=torch.uint8)
    stored = {f"w{BITMASK}": bits, f"w{VALUES}": torch.ones(1)}
    save_file(stored, tmp_path / "f", {METADATA: json.dumps({PACKED: '{"w": [27]}'})})
    with pytest.raises(CheckpointError, match="bits of w"):
        read_tensors(tmp_path / "f")
    save_file(stored, tmp_path / "f", {METADATA: json.dumps({PACKED: '{"w": [28]}'})})
    assert read_tensors(tmp_path / "f")[0]["w"].nonzero().tolist() == [[27]]


def test_a_changed_value_is_found_by_the_digest(tmp_path):
    weight = torch.zeros(100, 40)
    weight[3] = 1.0
    write_tensors(tmp_path / "f", {"w": weight}, {}, packed=True)
    parts = load_file(tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    assert set(parts) == {"w.bitmask", "w.values"}
    (tmp_path / "f").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="digest"):
        read_tensors(tmp_path / "f")
