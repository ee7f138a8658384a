"""`compact_run` and `export_run(compact=True)`: what they write, and what they refuse."""

import json
import shutil

import pytest
import torch

import prunekit
from prunekit.errors import CheckpointError, ExportError
from prunekit.export import compacting
from prunekit.export.compacting import compact_run
from prunekit.export.exporting import export_run
from prunekit.export.subject import open_subject
from prunekit.models.cost import count_macs
from prunekit.models.saved import load_model
from prunekit.pruning.compact import Compacted
from prunekit.runs.tensors import read_tensors
from tests.support.served import finished_run
from tests.support.training import run
from tests.train.test_compacting import CHANGES


@pytest.fixture(scope="module")
def zeros(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), **CHANGES)


def images():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_writes_a_smaller_model_and_what_was_done(zeros, tmp_path):
    found = compact_run(zeros, out=tmp_path / "small")
    assert set(found.files) == {"model.safetensors", "compact.json"}
    assert found.notes == ()
    small, large = load_model(tmp_path / "small"), load_model(zeros)
    with torch.no_grad():
        torch.testing.assert_close(
            small.double()(images().double()), large.double()(images().double())
        )
    document = json.loads((tmp_path / "small" / "compact.json").read_text())
    assert document == dict(found.document)
    stored = sum(p.numel() for p in small.parameters())
    assert document["parameters"] == {
        "before": sum(p.numel() for p in large.parameters()),
        "after": stored,
    }
    assert document["macs"] == {
        "before": count_macs(large, (1, 8, 8)).executed,
        "after": count_macs(small, (1, 8, 8)).executed,
    }
    assert document["run"] == f"tiny/{zeros.name}"
    assert document["proof"]["images"] == 64
    assert {r["unit"] for r in document["removed"]} == {"heads", "channels"}
    prepare = prunekit.preprocessing(tmp_path / "small" / "model.safetensors")
    assert prepare == prunekit.preprocessing(zeros)


@pytest.mark.slow
def test_it_goes_into_the_run_by_default_and_is_replaced(zeros):
    first = compact_run(zeros)
    again = compact_run(zeros)
    assert first.folder == again.folder == zeros / "compact"
    assert not list(zeros.glob(".compact*"))


def test_its_file_is_evaluated_as_the_run_is(zeros, tmp_path):
    found = compact_run(zeros, out=tmp_path / "small")
    whole = prunekit.evaluate_run(zeros)
    inside = compact_run(zeros).folder
    for source in (found.folder / "model.safetensors", found.folder, inside):
        part = prunekit.evaluate_run(source, ["data.test_limit=100", "data.name=digits"])
        assert part.top1 == whole.top1


def test_a_run_that_is_compact_stays_as_it_is(tmp_path):
    done = run(tmp_path, **CHANGES, finish="compact")
    found = compact_run(done, out=tmp_path / "again")
    assert (
        found.document["removed"]
        == json.loads((done / "report.json").read_text())["compact"]["removed"]
    )
    before, after = load_model(done).state_dict(), load_model(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_run_without_empty_units_is_told(tmp_path):
    done = finished_run(tmp_path / "run", {"name": "mlp", "hidden": [20]})
    found = compact_run(done)
    assert found.document["removed"] == []
    assert len(found.notes) == 1
    assert found.notes[0].startswith("Nothing was removed: no head and no channel is empty.")
    before, after = load_model(done).state_dict(), load_model(found.folder).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_export_is_of_the_smaller_model(zeros, tmp_path):
    found = export_run(zeros, pt2=True, packed=True, compact=True, out=tmp_path)
    small = compact_run(zeros, out=tmp_path / "small")
    expected = read_tensors(small.folder / "model.safetensors")[0]
    written = read_tensors(tmp_path / "model.packed.safetensors")[0]
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in expected.items()}
    assert all(torch.equal(tensor, written[name]) for name, tensor in expected.items())
    assert {file: check.images for file, check in found.checks.items()} == {"model.pt2": 100}
    card = (tmp_path / "README.md").read_text()
    for one in small.document["removed"]:
        assert f"- {one['layer']}: {one['before']} {one['unit']}, now {one['after']}" in card
    sizes = small.document["parameters"]
    assert f"{sizes['before']:,} parameters became {sizes['after']:,}" in card


def test_weights_alone_may_be_exported_compact(zeros, tmp_path):
    found = export_run(zeros, compact=True, out=tmp_path)
    assert set(found.files) == {"model.safetensors"}
    assert load_model(tmp_path / "model.safetensors").blocks[0].attn.num_heads < 3


def test_an_unfinished_run_is_refused(zeros, tmp_path):
    unfinished = tmp_path / "run"
    shutil.copytree(zeros, unfinished)
    (unfinished / "report.json").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        compact_run(unfinished)
    assert not (unfinished / "compact" / "again").exists()


def test_nothing_is_half_written_where_the_proof_fails(zeros, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ExportError("compact: without the empty heads of a layer the logits are off")

    monkeypatch.setattr(compacting, "compact", refuse)
    with pytest.raises(ExportError):
        compact_run(zeros, out=tmp_path / "small")
    with pytest.raises(ExportError):
        export_run(zeros, packed=True, compact=True, out=tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_no_config_builds_is_refused(zeros, tmp_path, monkeypatch):
    def wrapped(model, masks, images):
        return Compacted(torch.nn.Sequential(model), {}, (), ())

    monkeypatch.setattr(compacting, "compact", wrapped)
    with pytest.raises(ExportError, match="no config of 'vit' builds the smaller model"):
        compact_run(zeros, out=tmp_path / "small")


def test_masks_of_the_subject_are_those_of_the_run(zeros):
    subject = open_subject(zeros)
    assert subject.masked == tuple(subject.masks)
    assert {s["layer"] for s in compact_run(zeros).document["removed"]} <= set(subject.masks)


@pytest.mark.parametrize(
    ("read", "file", "key", "value"),
    [
        (compact_run, "report.json", "compact", 5),
        (compact_run, "report.json", "compact", {"removed": [5]}),
        (prunekit.evaluate_run, "manifest.json", "environment", -1),
        (prunekit.evaluate_run, "manifest.json", "environment", {"threads": [[]]}),
    ],
)
def test_what_a_run_from_elsewhere_says_wrong_is_one_line(zeros, tmp_path, read, file, key, value):
    shutil.copytree(zeros, tmp_path / "run")
    told = json.loads((tmp_path / "run" / file).read_text())
    (tmp_path / "run" / file).write_text(json.dumps(told | {key: value}))
    with pytest.raises(CheckpointError, match=file):
        read(tmp_path / "run")
