"""The model file: zeros in place, plain keys, and a model that gives the same answers."""

import json
import resource
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from prunekit.errors import CheckpointError, ResourceError
from prunekit.models import attach, build_model
from prunekit.models.saved import load_model, write_model
from prunekit.registry import COMPRESSORS, MODELS
from prunekit.registry.configs import DataSpec
from prunekit.runs.new_directory import new_run_dir
from prunekit.runs.tensors import read_tensors, write_tensors

SPEC = DataSpec(channels=1, height=8, width=8, classes=10)
VIT = {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 16, "heads": 2}
TOME = {"name": "tome", "slot": "tokens", "ratio": 0.5}


def built(model, compressors=()):
    return json.dumps({"model": model, "data": asdict(SPEC), "compressors": list(compressors)})


@pytest.fixture
def images():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run_dir(tmp_path):
    """A directory with a pruned and compressed transformer, and that transformer."""
    path = new_run_dir(tmp_path, "demo", "01234567")
    (path / "resolved.yaml").write_text("name: demo\n")
    model = build_model(MODELS.parse(VIT), SPEC)
    attach(model, "tokens", COMPRESSORS.create(COMPRESSORS.parse(TOME)))
    masks = {name: torch.rand_like(p) < 0.3 for name, p in model.named_parameters() if p.ndim == 2}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    write_model(path / "model.safetensors", model, masks, {"prunekit": built(VIT, [TOME])})
    return path, model.eval()


def test_loaded_model_gives_the_same_answers(run_dir, images):
    path, model = run_dir
    noise = torch.get_rng_state()
    for source in (path, str(path), path / "model.safetensors"):
        loaded = load_model(source)
        assert not loaded.training
        assert torch.equal(loaded(images), model(images))
    assert torch.equal(noise, torch.get_rng_state())


def test_a_model_that_asks_for_the_version_of_its_file_is_loaded(tmp_path):
    """torchvision's MNASNet refuses tensors without one."""
    settings = {"name": "torchvision:mnasnet0_5"}
    spec = DataSpec(channels=3, height=32, width=32, classes=10)
    model = build_model(MODELS.parse(settings), spec)
    metadata = json.dumps({"model": settings, "data": asdict(spec), "compressors": []})
    write_model(tmp_path / "m", model, {}, {"prunekit": metadata})
    loaded = load_model(tmp_path / "m")
    assert torch.equal(loaded.classifier[1].weight, model.classifier[1].weight)


def test_stock_torch_loads_the_file_strictly(run_dir):
    path, model = run_dir
    fresh = build_model(MODELS.parse(VIT), SPEC)
    assert fresh.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))


@given(bits=st.lists(st.booleans(), min_size=12, max_size=12))
def test_pruned_entries_are_zero_and_kept_ones_unchanged(tmp_path_factory, bits):
    path = tmp_path_factory.getbasetemp() / "pruned.safetensors"
    model, mask = nn.Linear(3, 4), torch.tensor(bits).reshape(4, 3)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    before = model.weight.detach().clone()
    write_model(path, model, {"weight": mask}, {})
    written = load_file(path)
    assert torch.equal(written["weight"][mask], before[mask])
    zeros = written["weight"][~mask]
    assert torch.equal(zeros.view(torch.int32), torch.zeros_like(zeros, dtype=torch.int32))
    assert torch.equal(written["bias"], model.bias)
    assert torch.equal(model.weight, before)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_tied_weights_are_written_and_pruned_under_each_name(tmp_path, name):
    model, mask = Tied(), torch.eye(4, dtype=torch.bool)
    write_model(tmp_path / "m", model, {name: mask}, {})
    written = load_file(tmp_path / "m")
    assert set(written) == set(model.state_dict())
    for key in ("first.weight", "second.weight"):
        assert torch.equal(written[key], model.first.weight * mask)
    Tied().load_state_dict(written, strict=True)


def test_views_and_half_precision_are_written(tmp_path):
    model = nn.Linear(4, 6).to(torch.bfloat16)
    model.weight = nn.Parameter(torch.randn(4, 6, dtype=torch.bfloat16).t())
    write_model(tmp_path / "m", model, {}, {})
    assert torch.equal(load_file(tmp_path / "m")["weight"], model.weight)


def test_start_weights_are_not_looked_for_again(tmp_path):
    settings = {**VIT, "init": "/a/file/that/is/gone.safetensors"}
    model = build_model(MODELS.parse(VIT), SPEC)
    write_model(tmp_path / "m", model, {}, {"prunekit": built(settings)})
    assert torch.equal(load_model(tmp_path / "m").head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not tell which model"),
        ({"prunekit": "{"}, "cannot be loaded"),
        ({"prunekit": "[]"}, "cannot be loaded"),
        ({"prunekit": built({"name": "no_such_model"})}, "no_such_model"),
        ({"prunekit": built({**VIT, "depth": "two"})}, "depth"),
        ({"prunekit": built({**VIT, "depth": 3})}, r"blocks\.2"),
        ({"prunekit": built({**VIT, "patch_size": 3})}, "patch_size"),
        ({"prunekit": built({**VIT, "embed_dim": 8})}, "size mismatch"),
        ({"prunekit": built({**VIT, "mlp_ratio": 1e308})}, "mlp_ratio"),
        ({"prunekit": built({**VIT, "depth": 100})}, "larger model"),
        ({"prunekit": built({"name": "resnet", "depth": 302})}, "larger model"),
        ({"prunekit": built(VIT, [{"name": "tome", "ratio": 7.0}])}, "ratio"),
        ({"prunekit": built(VIT, [{**TOME, "slot": "nowhere"}])}, "nowhere"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path, metadata, message):
    write_model(tmp_path / "m", build_model(MODELS.parse(VIT), SPEC), {}, metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path / "m")
    assert str(caught.value).startswith(str(tmp_path / "m"))
    assert "\n" not in str(caught.value)


def test_pickles_and_missing_files_are_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_model(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by a prunekit run"):
        load_model(tmp_path / "other.safetensors")


@contextmanager
def full_disk(room=4096):
    """No file grows beyond `room` bytes; print nothing meanwhile, pytest keeps it in a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, nn.Linear(2, 2), {}, {})
    before = path.read_bytes()
    full = pytest.raises(ResourceError, match=rf"^{path}: cannot be written")
    with full, full_disk():
        write_model(path, nn.Linear(100, 100), {}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(ResourceError, match="cannot be written"):
        write_model(tmp_path / "nowhere" / "m", nn.Linear(2, 2), {}, {})


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    """Also from several processes, whose hash seeds differ; see `METADATA`."""
    tensors = {"b": torch.arange(6.0), "a": torch.ones(2, 2)}
    metadata = {f"key {i}": str(i) for i in range(20)}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, tensors, metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_tensors(tmp_path / "one")[1] == metadata
