"""How long an ONNX file takes beside its dense model; and that zeros live through 8 bits."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from prunekit.bench.deploy_cases import quantised, zeros_in
from prunekit.cli.app import cli
from prunekit.cli.common import Options
from prunekit.export import latency
from prunekit.export.exporting import export_run
from prunekit.export.latency import onnx_latency, without_zeros
from prunekit.export.subject import open_subject
from prunekit.foundation.files import read_json
from prunekit.models.saved import preprocessing
from prunekit.report.document import compare, report_of
from prunekit.runs.directory import RunDir
from tests.support.served import VIT, finished_run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOME = {"name": "tome", "ratio": 0.5}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "merging", VIT, [TOME])


@pytest.fixture(scope="module")
def exported(run_dir):
    return export_run(run_dir, onnx=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run with no compressor and nothing removed, exported; its ONNX file."""
    run = finished_run(tmp_path_factory.mktemp("runs") / "plain", {**VIT, "embed_dim": 32})
    return export_run(run, onnx=True, timing=False).folder / "model.onnx"


def arrays(path):
    initializers = onnx.load(path).graph.initializer
    return {one.name: onnx.numpy_helper.to_array(one) for one in initializers}


def test_both_batches_stand_beside_dense_and_beside_torch(exported):
    found = exported.latency
    for timed in (found.onnxruntime, found.over_torch):
        assert timed.keys() == {"1", "8"}
        assert all(
            0 < one["ratio_low"] <= one["ratio"] <= one["ratio_high"] for one in timed.values()
        )
    assert found.threads == 1
    assert "(onnxruntime, 1 thread)." in found.saving


def test_the_record_is_beside_the_files_and_the_card_has_its_numbers(exported, run_dir):
    record = RunDir(run_dir).exported()
    assert record == read_json(run_dir / "export" / "export.json")
    assert record["latency"] == json.loads(json.dumps(exported.latency.plain()))
    assert record["files"] == dict(exported.files)
    assert record["versions"].keys() >= {"torch", "onnx", "onnxruntime"}
    card = (run_dir / "export" / "README.md").read_text()
    for batch, one in exported.latency.onnxruntime.items():
        assert f"| onnxruntime, batch {batch}, threads 1 | {one['median_ms']:.2f} ms" in card
    assert exported.latency.saving.split("(")[0] in card


def test_a_damaged_record_is_none(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text("{")
    assert RunDir(tmp_path).exported() == {}
    assert RunDir(tmp_path / "none").exported() == {}


def test_a_report_has_the_times_of_exported_runs_and_a_dash_for_others(exported, run_dir, tmp_path):
    finished_run(tmp_path / "other", {**VIT, "depth": 2}, [TOME])
    found = report_of(compare([run_dir, tmp_path / "other"]))
    (table,) = (t for t in found.tables if t.title == "Times as measured")
    column = table.columns.index("ORT b1, ms")
    texts = {row[column] for row in table.rows}
    assert texts == {"-", f"{exported.latency.onnxruntime['1']['median_ms']:.2f}"}


@pytest.mark.slow
def test_the_dense_stand_in_is_the_same_program_without_zeros(plain, tmp_path):
    dense = tmp_path / "dense.onnx"
    dense.write_bytes(without_zeros(plain))
    before, after = arrays(plain), arrays(dense)
    assert before.keys() == after.keys()
    assert any((array == 0).mean() > 0.5 for array in before.values() if array.ndim > 1)
    for name, array in before.items():
        kept = array != 0
        assert np.array_equal(array[kept], after[name][kept])
        if array.dtype == np.float32 and array.ndim > 1:
            assert not (after[name] == 0).any()
    programs = [[node.op_type for node in onnx.load(path).graph.node] for path in (plain, dense)]
    assert programs[0] == programs[1]


@pytest.mark.slow
def test_what_cannot_be_timed_is_a_note_and_the_export_is_there(tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run", {"name": "mlp", "hidden": [20]})

    def refuse(*args):
        raise RuntimeError("no such\nprovider")

    monkeypatch.setattr(latency, "session_pass", refuse)
    found = export_run(run, onnx=True)
    assert found.notes[-1] == "not timed: no such provider"
    assert (found.latency.onnxruntime, found.latency.saving) == ({}, None)
    assert (run / "export" / "model.onnx").is_file()


def test_a_dense_model_that_does_not_export_is_a_note(exported, run_dir, monkeypatch):
    monkeypatch.setattr(latency, "trace", lambda *args: 1 / 0)
    found = onnx_latency(run_dir / "export" / "model.onnx", open_subject(run_dir), 0.05)
    assert found.notes[0] == "the dense model is not timed in onnxruntime: division by zero"
    assert {one["ratio"] for one in found.onnxruntime.values()} == {None}


@pytest.mark.slow
def test_a_file_that_is_slower_than_torch_is_told(plain, monkeypatch):
    monkeypatch.setattr(latency, "SLOWER", 0.0)
    found = onnx_latency(plain, open_subject(plain.parents[1]))
    assert [note.partition(" takes")[0] for note in found.notes] == [
        "at batch 1 onnxruntime",
        "at batch 8 onnxruntime",
    ]


def test_timing_can_be_left_out(tmp_path):
    run = finished_run(tmp_path / "run", {"name": "mlp", "hidden": [20]})
    done = CliRunner().invoke(
        cli, ["export", str(run), "--onnx", "--no-timing", "--json"], obj=Options()
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["latency"] is None


# --- 8 bits


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_live_through_dynamic_quantisation(plain, symmetric):
    small = quantised(plain, symmetric=symmetric)
    assert zeros_in(small) >= zeros_in(plain) > 0.5
    before, after = arrays(plain), arrays(small)
    names = [name for name in after if name.endswith("_quantized")]
    assert len(names) > 3  # qkv, proj, both of the MLP, the head
    for name in names:
        own = name.removesuffix("_quantized")
        weight, point = after[name], after[f"{own}_zero_point"]
        turned = own.endswith("_Transposed")  # as the head of the model is stored
        zeros = before[own.removesuffix("_Transposed")] == 0
        zeros = zeros.T if turned else zeros
        assert zeros.mean() > 0.5
        assert (weight[zeros] == point.reshape(-1)[0]).all()


@pytest.mark.soak
def test_zeros_live_through_nncf_and_openvino(plain, tmp_path):
    """The recipe of docs/deploy.md: pip install nncf openvino, which are in no extra."""
    nncf, openvino = (pytest.importorskip(name) for name in ("nncf", "openvino"))
    model, prepare = openvino.convert_model(plain), preprocessing(plain.parents[1])
    pixels = torch.randint(0, 256, (64, 1, 1, 8, 8), dtype=torch.uint8)
    images = nncf.Dataset([prepare(one).numpy() for one in pixels])
    kind = nncf.ModelType.TRANSFORMER
    small = nncf.quantize(model, images, subset_size=len(pixels), model_type=kind)
    openvino.save_model(small, tmp_path / "model.xml")
    stored = openvino.Core().read_model(tmp_path / "model.xml")
    before, after = (constants(one) for one in (openvino.convert_model(plain), stored))
    assert len(before) == len(after) > 4
    for own, weight in zip(before, after, strict=True):
        assert (own == 0).mean() > 0.5
        assert weight.dtype == np.int8
        assert not weight[own == 0].any()


def constants(model):
    """The matrices of an OpenVINO model, in its order."""
    found = [one.get_data() for one in model.get_ordered_ops() if one.get_type_name() == "Constant"]
    return [one for one in found if one.ndim == 2 and min(one.shape) > 1]
