"""`predict`: image files to classes, and to the patches that were merged."""

import numpy as np
import pytest
import torch
from PIL import Image

from prunekit import predict, preprocessing
from prunekit.compressors.base import RatioCompressor, RatioConfig
from prunekit.errors import CheckpointError, DataError, UsageError
from prunekit.export import predicting
from prunekit.export.exporting import export_run
from prunekit.models.saved import load_model
from prunekit.registry import COMPRESSORS, DATASETS
from prunekit.runs.tensors import read_tensors, write_tensors
from tests.support.served import DATA, VIT, finished_run

TOME = {"name": "tome", "ratio": 0.5}
LATER = {"name": "tome", "ratio": 0.25, "slot": "blocks.0"}
DROP = {"name": "random_drop", "ratio": 0.25}


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "merging", VIT, [TOME, LATER])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Test images as files, and as they are in memory."""
    folder = tmp_path_factory.mktemp("digits")
    samples = DATASETS.parse(DATA).load("test")
    keep = samples.images[:40]
    files = [folder / f"{number:02}.png" for number in range(len(keep))]
    for file, image in zip(files, keep, strict=True):
        Image.fromarray(image[0].numpy()).save(file)
    return files, samples.images[:40]


def test_classes_and_probabilities_are_those_of_the_model(merging, digits, monkeypatch):
    monkeypatch.setattr(predicting, "BATCH", 16)  # 40 images are three
    files, images = digits
    found = predict(merging, files, top=3)
    assert [one.image for one in found] == [str(file) for file in files]
    prepared = preprocessing(merging)
    with torch.no_grad():
        shares = load_model(merging)(prepared(images)).softmax(-1)
    for one, row in zip(found, shares, strict=True):
        values, places = row.topk(3)
        assert [name for name, _ in one.classes] == [str(place) for place in places.tolist()]
        assert [share for _, share in one.classes] == pytest.approx(values.tolist(), abs=1e-6)
        assert one.merged is None
    assert len(predict(merging, files[:1], top=99)[0].classes) == 10


def test_an_exported_file_predicts_the_same(digits, tmp_path):
    pytest.importorskip("onnxruntime")
    files, _ = digits
    run_dir = finished_run(tmp_path / "run", {"name": "mlp", "hidden": [20]})
    path = export_run(run_dir, onnx=True, timing=False).folder / "model.onnx"
    own, found = predict(run_dir, files), predict(path, files)
    for mine, theirs in zip(own, found, strict=True):
        assert [name for name, _ in mine.classes] == [name for name, _ in theirs.classes]
        assert dict(mine.classes) == pytest.approx(dict(theirs.classes), abs=1e-5)
    with pytest.raises(UsageError, match="give the run or its safetensors file"):
        predict(path, files, merged=True)


# --- merged patches


def test_groups_hold_as_many_patches_as_the_last_tokens_stand_for(merging, digits):
    """Through both slots: sizes are counted by the merging itself."""
    files, images = digits
    found = predict(merging, files, merged=True)
    model, sizes = load_model(merging), []
    model.blocks[0].compressor.register_forward_hook(lambda m, i, out: sizes.append(out.size))
    with torch.no_grad():
        model(preprocessing(merging)(images))
    for one, size, image in zip(found, sizes[0], images, strict=True):
        assert one.merged.groups.shape == (4, 4)
        counts = np.unique(one.merged.groups, return_counts=True)[1]
        assert one.merged.tokens == len(counts) == 6  # of 16, then 8
        # the class token comes first
        assert sorted(counts) == sorted(size[1:, 0].int().tolist())
        assert np.array_equal(one.merged.pixels[:, :, 0], image[0].numpy())


def test_dropped_patches_are_told_apart(tmp_path, digits):
    run_dir = finished_run(tmp_path / "run", VIT, [DROP, LATER])
    (one,) = predict(run_dir, digits[0][:1], merged=True)
    assert int((one.merged.groups < 0).sum()) == 4
    assert one.merged.tokens == 9


class Silent(RatioCompressor):
    """Drops the last tokens, and does not tell."""

    class Config(RatioConfig):
        name: str = "silent"

    def forward(self, tokens):
        left = tokens.protected + self.output_tokens(tokens.x.shape[1] - tokens.protected)
        return tokens._replace(x=tokens.x[:, :left], size=tokens.size[:, :left])


def test_what_does_not_tell_its_groups_is_refused_by_name(tmp_path, digits):
    with COMPRESSORS.temporarily("silent", Silent):
        run_dir = finished_run(tmp_path / "run", VIT, [{"name": "silent", "ratio": 0.5}])
        assert len(predict(run_dir, digits[0][:1])) == 1
        with pytest.raises(UsageError, match="compressor 'silent' does not tell"):
            predict(run_dir, digits[0][:1], merged=True)
    dense = finished_run(tmp_path / "dense", VIT)
    with pytest.raises(UsageError, match="has no compressor: no patch is merged"):
        predict(dense, digits[0][:1], merged=True)


# --- what it refuses


def test_what_is_no_image_is_told_by_its_path(merging, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "folder").mkdir()
    for name, what in {
        "none.png": "no such image",
        "text.png": "cannot be decoded: it is no image of a format that is read",
        "large.png": "9x9 pixels among images of 8x8: resize it",
        "colour.png": "an image in colour",
        "folder": "a folder: give its image files",
    }.items():
        with pytest.raises(DataError, match=f"{name}: {what}"):
            predict(merging, [tmp_path / name])
    with pytest.raises(UsageError, match="no image"):
        predict(merging, [])


def test_logits_that_are_not_finite_are_no_prediction(tmp_path, digits):
    run_dir = finished_run(tmp_path / "run", VIT)
    weights, metadata = read_tensors(run_dir / "model.safetensors")
    weights["head.bias"][0] = float("inf")
    write_tensors(run_dir / "model.safetensors", weights, metadata)
    with pytest.raises(CheckpointError, match="not finite"):
        predict(run_dir, digits[0][:1])
