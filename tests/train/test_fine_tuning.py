"""From one set of classes to another: a run on ten digits, tuned to photos of four of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from prunekit.errors import CheckpointError
from prunekit.registry import DATASETS
from prunekit.runs.directory import open_run
from prunekit.train.dry_run import dry_run
from prunekit.train.launch import resume_run
from tests.support.training import recipe, rewound, run

HEAD = "the head (fc2.bias, fc2.weight) starts fresh, as it is for 10 classes there and 4 here"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("ten"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits 0 to 3, as files."""
    root = tmp_path_factory.mktemp("photos")
    for split, most in (("train", 160), ("test", 80)):
        samples = DATASETS.parse({"name": "digits"}).load(split)
        few = [i for i, label in enumerate(samples.labels.tolist()) if label < 4][:most]
        for i in few:
            folder = root / split / f"digit {int(samples.labels[i])}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(samples.images[i, 0].numpy()).save(folder / f"{i}.png")
    return root


def to_photos(photos: Path, init: Path | str | None) -> dict[str, object]:
    return {
        "data": {"name": "image_folder", "root": str(photos), "batch_size": 32},
        "model": {"name": "mlp", "hidden": [16], "init": None if init is None else str(init)},
        "phases": [{"name": "train", "length": "1ep"}],
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "strategies": [],
    }


def accuracy(path: Path) -> float:
    return float(open_run(path).report()["accuracy"]["test_top1"])


def test_a_run_and_a_wrapped_file_start_a_run_on_other_classes(
    source: Path, photos: Path, tmp_path: Path
) -> None:
    state = load_file(source / "model.safetensors")
    file = tmp_path / "ddp.pth"
    torch.save({"model": {f"module.{n}": t for n, t in state.items()}, "epoch": 6}, file)
    from_run = run(tmp_path / "a", **to_photos(photos, source))
    from_file = run(tmp_path / "b", **to_photos(photos, file))
    for path, said in ((from_run, HEAD), (from_file, f"without 'model.module.'; {HEAD}")):
        (warning,) = open_run(path).report()["warnings"]
        assert warning.endswith(said)
        start = open_run(path).initial_weights()
        assert torch.equal(start["fc1.weight"], state["fc1.weight"])
        assert start["fc2.weight"].shape == (4, 16)
    first, second = (open_run(path).final_weights() for path in (from_run, from_file))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = run(tmp_path / "c", **to_photos(photos, None))
    assert accuracy(from_run) > accuracy(fresh)


def test_a_dry_run_tells_what_would_be_taken(source: Path, photos: Path) -> None:
    asked = recipe(**to_photos(photos, source / "model.safetensors"))
    for _ in range(2):  # each time anew, in one process
        (note,) = dry_run(asked).notes
        assert note == f"model.init: {source}/model.safetensors: {HEAD}"


def test_a_resumed_run_does_not_read_its_start_again_and_keeps_what_was_told(
    source: Path, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "start.pth"
    torch.save(load_file(source / "model.safetensors"), file)
    whole = run(tmp_path / "out", **to_photos(photos, file), checkpoint={"every": "2st"})
    file.unlink()
    expected = open_run(whole).final_weights()
    for step in (0, 4):
        half = rewound(whole, step, tmp_path / f"to {step}")
        resume_run(half)
        assert open_run(half).report()["warnings"] == [f"model.init: {file}: {HEAD}"]
        found = open_run(half).final_weights()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_file_of_another_model_ends_the_run_before_it_begins(
    photos: Path, source: Path, tmp_path: Path
) -> None:
    asked = to_photos(photos, source) | {
        "model": {"name": "resnet", "depth": 8, "init": str(source)}
    }
    with pytest.raises(CheckpointError, match=r"^model\.init: .*holds another model: conv1"):
        run(tmp_path, **asked)
    assert not list(tmp_path.iterdir())
