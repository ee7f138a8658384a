"""`prunekit export` and `prunekit check-nm`: what they print, and how they exit."""

import json

import pytest

from tests.support.served import finished_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "run", {"name": "mlp", "hidden": [20]})


def test_an_export_tells_what_it_wrote_and_how_it_was_checked(call, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("export", run_dir, "--pt2", "--out", "served")
    assert (code, err) == (0, "")
    assert "Wrote served/model.pt2  0." in out
    assert "40 test images at batches 1, 2 and 7: logits within" in out
    assert "the same classes" in out
    assert "zeros in the pruned tensors of each file" in out
    assert {path.name for path in (tmp_path / "served").iterdir()} == {
        "README.md",
        "export.json",
        "model.pt2",
        "model.safetensors",
    }


def test_an_export_for_a_program_is_one_document(call, run_dir):
    code, out, _ = call("export", run_dir, "--packed", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["folder"] == str(run_dir / "export")
    assert set(document["files"]) == {"model.packed.safetensors"}
    assert document["zeros"] > 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "Error: nothing to export: give --onnx, --pt2, --packed or --compact"),
        (("--packed", "--normalize"), 2, "Error: --normalize goes inside of a program"),
    ],
)
def test_a_request_that_makes_no_sense_ends_with_2(call, run_dir, args, code, message):
    ended, out, err = call("export", run_dir, *args)
    assert (ended, out) == (code, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


def test_what_is_no_run_ends_with_5(call, tmp_path):
    code, _, err = call("export", tmp_path / "none", "--pt2")
    assert (code, len(err.splitlines())) == (5, 1)
    (tmp_path / "f").write_text("no tensors")
    code, _, err = call("check-nm", tmp_path / "f")
    assert (code, len(err.splitlines())) == (5, 1)


def test_tensors_are_told_with_their_share(call, run_dir):
    code, out, _ = call("check-nm", run_dir, "--n", "3")
    assert code == 0
    assert "10x20" in out
    assert out.splitlines()[-1].endswith("tensors hold 3:4")
    code, out, _ = call("check-nm", run_dir, "--m", "3", "--json")
    document = json.loads(out)
    assert (document["n"], document["m"]) == (2, 3)
    assert [one["inputs"] for one in document["tensors"]] == [64, 20]
    assert [one["groups"] for one in document["tensors"]] == [0, 0]
    assert document["holding"] == 0


def test_a_wrong_pattern_ends_with_2(call, run_dir):
    code, _, err = call("check-nm", run_dir, "--n", "4")
    assert code == 2
    assert "n must be at least 1 and less than m" in err
