"""n of m along the inputs, against a loop."""

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn

from prunekit import check_nm
from prunekit.errors import CheckpointError, UsageError
from prunekit.models.saved import write_model
from prunekit.runs.tensors import write_tensors
from tests.support.served import VIT, finished_run


def by_loop(weight, n, m):
    """Linear [out, in] or convolution [out, in, kh, kw]: groups, and those that hold."""
    rows = weight.flatten(2).transpose(1, 2).flatten(0, 1) if weight.ndim > 2 else weight
    groups = [row[i : i + m] for row in rows.tolist() for i in range(0, len(row), m)]
    return len(groups), sum(sum(value != 0 for value in group) <= n for group in groups)


@given(
    shape=st.sampled_from([(3, 8), (2, 4, 3, 3), (5, 12), (1, 8, 1, 2)]),
    m=st.sampled_from([2, 4]),
    seed=st.integers(0, 99),
    density=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_groups_are_counted_along_the_inputs(tmp_path_factory, shape, m, seed, density):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight *= torch.rand(shape, generator=generator) < density
    path = tmp_path_factory.getbasetemp() / "nm.safetensors"
    save_file({"w": weight, "bias": torch.ones(8), "pos": torch.ones(1, 4, 8)}, path)
    (found,) = check_nm(path, m // 2, m)
    assert (found.groups, found.holding) == by_loop(weight, m // 2, m)
    assert found.holds == (found.groups == found.holding)
    assert (found.name, found.shape, found.inputs) == ("w", shape, shape[1])


def test_inputs_that_m_does_not_divide_hold_nothing(tmp_path):
    save_file({"w": torch.zeros(4, 6), "v": torch.zeros(4, 8)}, tmp_path / "f")
    first, second = sorted(check_nm(tmp_path / "f"), key=lambda one: one.name)
    assert (first.name, first.holds, first.groups) == ("v", True, 8)
    assert (second.holds, second.groups, second.inputs) == (False, 0, 6)


def test_a_run_is_looked_at_where_it_is_pruned_by_default(tmp_path):
    run_dir = finished_run(tmp_path / "run", VIT)
    found = {one.name: one for one in check_nm(run_dir, 3, 4)}
    assert set(found) == {
        "patch_embed.proj.weight",
        *(f"blocks.0.{m}.weight" for m in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
        "head.weight",
    }
    assert found["patch_embed.proj.weight"].groups == 0  # one input channel
    assert found["head.weight"].groups == 10 * 16 // 4


def test_a_packed_file_is_looked_at_as_the_plain_one(tmp_path):
    weight = torch.zeros(64, 400)
    weight[:, ::4] = 1.0
    write_tensors(tmp_path / "f", {"w": weight}, {}, packed=True)
    (found,) = check_nm(tmp_path / "f", 1, 4)
    assert found.holds


def test_what_is_no_pattern_or_no_weight_is_refused(tmp_path):
    write_model(tmp_path / "f", nn.LayerNorm(4), {}, {})
    for n, m in ((0, 4), (4, 4), (5, 4)):
        with pytest.raises(UsageError, match="n must be"):
            check_nm(tmp_path / "f", n, m)
    with pytest.raises(CheckpointError, match="holds no weight"):
        check_nm(tmp_path / "f")
    with pytest.raises(CheckpointError, match="no such file"):
        check_nm(tmp_path / "none")
