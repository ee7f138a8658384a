"""`evaluate_run`: the numbers of the run, of its exports, of other data; and what it refuses."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import prunekit
from prunekit.data import open_dataset
from prunekit.errors import CheckpointError, DataError, RecipeError, UsageError
from prunekit.export import evaluating, served
from prunekit.export.evaluating import evaluate_run
from prunekit.export.exporting import export_run
from prunekit.foundation.files import read_json, write_json
from prunekit.models.file_metadata import IMAGES
from prunekit.models.saved import load_model
from prunekit.recipe.load import recipe_from
from prunekit.registry import DATASETS
from prunekit.runs.tensors import read_tensors, write_tensors
from tests.support.data_sets import image_folder
from tests.support.served import DATA, VIT, finished_run
from tests.support.training import run

TOME = {"name": "tome", "ratio": 0.5}
POOL = {"name": "average_pool", "ratio": 0.5}
MLP = {"name": "mlp", "hidden": [20]}
VALUES = ("top1", "top5", "by_class", "mistakes")


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "merging", VIT, [TOME])


# --- on its own data


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "data": {"name": "digits", "batch_size": 48, "micro_batch": 7}},
        {"model": VIT, "compressors": [TOME], "ema": {"decay": 0.9}},
    ],
    ids=["plain", "bf16", "tome"],
)
def test_it_gives_the_numbers_of_the_runs_own_report(tmp_path, changes):
    run_dir = run(tmp_path, phases=[{"name": "train", "length": "4st"}], **changes)
    report = read_json(run_dir / "report.json")
    found = evaluate_run(run_dir)
    assert found.top1.share == report["accuracy"]["test_top1"]
    assert found.loss == report["loss"]["test"]
    assert found.notes == ()
    assert evaluate_run(run_dir / "model.safetensors").loss == found.loss


@pytest.mark.parametrize("eval_batch", [None, 7])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_are_cut_as_the_run_cut_them(merging, world, eval_batch):
    recipe = recipe_from(
        {
            "name": "cut",
            "data": {**DATA, "batch_size": 18, "micro_batch": 5, "eval_batch": eval_batch},
            "model": MLP,
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "phases": [{"name": "train", "length": "1st"}],
        }
    )
    cpu = torch.device("cpu")
    samples = evaluating.open_test_split(recipe.data, cpu)
    for rank in range(world):
        data = open_dataset(recipe.data, seed=0, device=cpu, rank=rank, world=world)
        model = replace(served.open_served(merging), world=world)
        batches = evaluating._batches(model, recipe.data, samples, rank)
        for (own, labels), (theirs, others) in zip(batches, data.eval_batches("test"), strict=True):
            assert torch.equal(data.preprocessing(own), theirs)
            assert torch.equal(labels, others)


def test_a_report_with_other_numbers_is_told(merging):
    assert evaluate_run(merging).notes[0].startswith("The report of the run has 50.00%")


def test_a_run_of_an_earlier_version_is_normalised_by_its_own_data(merging, tmp_path):
    old = shutil.copytree(merging, tmp_path / "old")
    weights, metadata = read_tensors(old / "model.safetensors")
    del metadata[IMAGES]
    write_tensors(old / "model.safetensors", weights, metadata)
    assert evaluate_run(old).loss == evaluate_run(merging).loss
    write_json(old / "manifest.json", {"data": "0" * 64})
    with pytest.raises(CheckpointError, match="the data of its run changed"):
        evaluate_run(old)


# --- files


@pytest.mark.parametrize(
    ("model", "compressors", "inside"), [(VIT, [POOL], False), (MLP, [], True)]
)
def test_an_exported_file_gives_what_the_run_gives(tmp_path, model, compressors, inside):
    pytest.importorskip("onnxruntime")
    run_dir, folder = finished_run(tmp_path / "run", model, compressors), tmp_path / "served"
    export_run(run_dir, onnx=True, packed=True, normalize=inside, out=folder, timing=False)
    own = evaluate_run(run_dir)
    for file in ("model.onnx", "model.packed.safetensors"):
        overrides = [] if file.endswith("onnx") else ["data.name=digits", "data.test_limit=40"]
        found = evaluate_run(folder / file, overrides)
        assert [getattr(found, name) for name in VALUES] == [getattr(own, name) for name in VALUES]
        assert found.loss == pytest.approx(own.loss, rel=1e-5)
    about = evaluate_run(folder / "model.onnx").data
    assert (about["name"], about["test_limit"], about["root"]) == ("digits", 40, None)
    with pytest.raises(UsageError, match="fixed in the file"):
        evaluate_run(folder / "model.onnx", eval_ratios=[0])


def test_a_file_alone_needs_its_data(merging, tmp_path):
    file = shutil.copy(merging / "model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match=r"does not tell its data: give it, such as data\.name="):
        evaluate_run(file, ["data.root=photos"])
    found = evaluate_run(file, ["data.name=digits", "data.test_limit=40"])
    assert found.top1 == evaluate_run(merging).top1


# --- other data


def test_other_data_is_normalised_by_the_training_split_of_the_run(tmp_path):
    """Brighter images would be the same ones again under statistics of their own."""
    names = ["bird", "cat"]
    trained_on = image_folder(tmp_path / "a", names, size=8, brightness=40)
    other = image_folder(tmp_path / "b", names, size=8, brightness=200)
    data = {"name": "image_folder", "root": str(trained_on), "batch_size": 4}
    run_dir = finished_run(tmp_path / "run", MLP, data=data)
    own, found = evaluate_run(run_dir), evaluate_run(run_dir, [f"data.root={other}"])
    prepared = prunekit.preprocessing(run_dir)
    samples = DATASETS.parse({**data, "root": str(other)}).load("test")
    mean = torch.tensor(prepared.mean).view(-1, 1, 1)
    images = (samples.images.double() - mean) / torch.tensor(prepared.std).view(-1, 1, 1)
    with torch.no_grad():
        logits = load_model(run_dir)(images.float())
    loss = torch.nn.functional.cross_entropy(logits, samples.labels)
    assert found.loss == pytest.approx(float(loss), rel=1e-5)
    assert found.loss != pytest.approx(own.loss, rel=1e-3)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        (["ant", "bird", "cat"], 8, "has 3 classes, where the model has 2"),
        (["bird", "dog"], 8, "class 1 is 'dog', where that of the model is 'cat'"),
        (["bird", "cat"], 9, "images of 9x9 pixels, where the model takes 8x8"),
    ],
)
def test_data_that_does_not_fit_is_told(tmp_path, names, size, message):
    own = image_folder(tmp_path / "a", ["bird", "cat"], size=8)
    data = {"name": "image_folder", "root": str(own), "batch_size": 4}
    run_dir = finished_run(tmp_path / "run", MLP, data=data)
    other = image_folder(tmp_path / "b", names, size=size)
    with pytest.raises(DataError, match=message):
        evaluate_run(run_dir, [f"data.root={other}"])


def test_another_data_set_leaves_the_settings_of_the_first_behind(merging, tmp_path):
    folder = image_folder(tmp_path / "a", [str(n) for n in range(10)], size=8, gray=True)
    found = evaluate_run(merging, ["data.name=image_folder", f"data.root={folder}"])
    assert (found.data["test_limit"], found.data["batch_size"]) == (None, DATA["batch_size"])


# --- other ratios


def test_other_ratios_are_those_of_models_that_were_built_so(merging, tmp_path):
    asked = [0, 0.25, 0.5]
    found = evaluate_run(merging, eval_ratios=asked)
    assert [one.tokens for one in found.ratios] == [(16, 16), (16, 12), (16, 8)]
    assert found.tokens == (16, 8)
    assert (found.ratios[2].loss, found.ratios[2].top1) == (found.loss, found.top1)
    assert found.ratios[0].macs > found.ratios[1].macs > found.ratios[2].macs
    for one in found.ratios:
        built = TOME | {"ratio": one.eval_ratio}
        again = finished_run(tmp_path / f"{one.eval_ratio}", VIT, [built])
        assert evaluate_run(again).loss == one.loss


@pytest.mark.parametrize("ratio", [-0.1, 1, float("nan")])
def test_a_ratio_that_is_none_is_refused(merging, ratio):
    with pytest.raises(UsageError, match="at least 0 and less than 1"):
        evaluate_run(merging, eval_ratios=[ratio])


def test_a_ratio_that_leaves_no_token_or_has_no_compressor_is_refused(merging, tmp_path):
    with pytest.raises(UsageError, match="leaves none"):
        evaluate_run(merging, eval_ratios=[0.99])
    with pytest.raises(UsageError, match="has no compressor"):
        evaluate_run(finished_run(tmp_path / "run", MLP), eval_ratios=[0.5])


# --- what it refuses


def test_what_is_no_model_of_a_finished_run_is_refused(merging, tmp_path):
    unfinished = shutil.copytree(merging, tmp_path / "unfinished")
    (unfinished / "report.json").unlink()
    (unfinished / "status.json").unlink()  # else the run is done, and its report was taken away
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "model.pt2").write_bytes(b"PK")
    for name, what in {
        "unfinished": "begin it again with `prunekit run`",
        "none": "no such file",
        "none.onnx": "no such file",
        "foreign.safetensors": "not written by a prunekit run",
        "text.safetensors": "no safetensors file",
        "model.pt2": "read by torch alone",
    }.items():
        with pytest.raises(CheckpointError, match=what):
            evaluate_run(tmp_path / name)


def test_an_onnx_file_of_another_program_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    run_dir = finished_run(tmp_path / "run", MLP)
    path = export_run(run_dir, onnx=True, timing=False).folder / "model.onnx"
    model = onnx.load(path)
    about = {one.key: one.value for one in model.metadata_props}
    prepared = json.loads(about[IMAGES])
    prepared |= {"classes": prepared["classes"][:9]}
    changes = {
        "does not tell its classes": {},
        "where its metadata says": {**about, IMAGES: json.dumps(prepared)},
        "cannot be read by this version": {**about, IMAGES: "{}"},
    }
    for message, metadata in changes.items():
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / "foreign.onnx")
        with pytest.raises(CheckpointError, match=message):
            evaluate_run(tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CheckpointError, match="onnxruntime cannot read it"):
        evaluate_run(tmp_path / "text.onnx")
    onnx.helper.set_model_props(
        model, about | {"data": json.dumps({"name": "digits", "root": "/", "download": True})}
    )
    onnx.save(model, tmp_path / "own.onnx")
    data = evaluate_run(tmp_path / "own.onnx").data
    assert (data["root"], data["download"]) == (None, False)


def test_without_onnxruntime_its_line_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(served.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UsageError, match=r"pip install 'prunekit\[onnx\]'"):
        evaluate_run(tmp_path / "model.onnx")


def test_only_keys_of_the_data_can_be_given(merging):
    with pytest.raises(UsageError, match="only keys of the data"):
        evaluate_run(merging, ["model.depth=2"])
    with pytest.raises(RecipeError, match=r"override 'data\.rot=x' data\.rot"):
        evaluate_run(merging, ["data.rot=x"])


def test_logits_that_are_not_finite_are_refused(tmp_path):
    run_dir = finished_run(tmp_path / "run", MLP, pruned=False)
    weights, metadata = read_tensors(run_dir / "model.safetensors")
    name = next(name for name in weights if name.endswith("bias"))
    weights[name][0] = float("nan")
    write_tensors(run_dir / "model.safetensors", weights, metadata)
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate_run(run_dir)
