"""What a run says of its finished model as measured: time beside dense, bytes, what arrived."""

import pytest
import torch

from prunekit import load_model, open_run
from prunekit.models import latency
from prunekit.registry import STRATEGIES
from prunekit.report import summarise
from prunekit.train import measured
from tests.support.training import run
from tests.train.test_finish import CHANNELS, Removing

OLD = {"median_ms", "iqr_ms", "batch", "device", "dtype", "threads"}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def report(pruned):
    return open_run(pruned).report()


def test_what_readers_of_before_know_is_where_it_was(report):
    found = report["latency"]
    assert found.keys() > OLD
    assert (found["batch"], found["device"], found["dtype"]) == (1, "cpu", "float32")
    assert found["threads"] == torch.get_num_threads()
    assert found["median_ms"] == found["torch"]["1"]["median_ms"]


def test_both_batches_stand_beside_the_dense_model(report):
    assert report["latency"]["torch"].keys() == {"1", "8"}
    for one in report["latency"]["torch"].values():
        assert one["dense_ms"] > 0
        assert one["ratio_low"] <= one["ratio"] <= one["ratio_high"]
    assert report["latency"]["notes"] == []
    saved = 1 - report["macs"]["theoretical"] / report["macs"]["dense"]
    assert report["saving"].startswith(f"{saved:.1%} fewer multiply-adds than dense (as many are")
    threads = torch.get_num_threads()
    assert f"(torch on cpu, {threads} thread{'s' * (threads > 1)})." in report["saving"]


def test_the_bytes_are_those_of_the_file_and_of_its_other_forms(pruned, report):
    files = report["files"]
    assert files["plain"] == files["dense"] == (pruned / "model.safetensors").stat().st_size
    assert files["packed"] < files["plain"] > files["zipped"] > 0


def test_a_model_that_lost_units_stands_beside_one_that_has_them(tmp_path):
    with STRATEGIES.temporarily("removing", Removing):
        done = run(tmp_path, strategies=[{"name": "removing", **CHANNELS}])
    found = open_run(done).report()
    floats = sum(p.numel() for p in load_model(done).parameters())
    lost = found["parameters"]["removed"]
    assert found["parameters"]["stored"] == floats
    assert found["files"]["dense"] - found["files"]["plain"] == 4 * lost
    assert "zeros in place" not in found["saving"]


def test_a_dense_run_saves_nothing_and_is_its_own_measure(tmp_path):
    found = open_run(run(tmp_path, strategies=[])).report()
    assert found["saving"] is None
    assert [one["ratio"] for one in found["latency"]["torch"].values()] == [1.0, 1.0]
    assert found["files"]["dense"] == found["files"]["plain"]


def test_a_model_that_cannot_be_timed_is_no_failed_run(tmp_path, monkeypatch):
    def refuse(call, device):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(latency, "pass_seconds", refuse)
    done = run(tmp_path)
    found = open_run(done).report()
    assert (found["latency"], found["saving"]) == (None, None)
    assert found["files"]["plain"] > 0
    assert "batch 1 could not be timed: RuntimeError: no such kernel" in found["warnings"]
    assert summarise(done)


def test_a_dense_model_that_cannot_be_had_is_a_note(tmp_path, monkeypatch):
    def refuse(config, spec, like, notes):
        notes.append("the dense model is not timed: no room")

    monkeypatch.setattr(measured, "dense_model", refuse)
    found = open_run(run(tmp_path)).report()
    assert found["latency"]["notes"] == ["the dense model is not timed: no room"]
    assert found["files"]["dense"] is None
    assert found["saving"] is None
    assert {one["ratio"] for one in found["latency"]["torch"].values()} == {None}


@pytest.mark.parametrize(
    ("trained", "seconds"), [(0.0, 0.1), (1.0, 0.1), (10.0, 0.5), (600.0, 3.0)]
)
def test_timing_has_a_twentieth_of_the_run_within_bounds(trained, seconds):
    assert measured.timing_seconds(trained) == seconds
