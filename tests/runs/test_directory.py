"""Run directories: whole or not there, and one holder."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file

from prunekit.errors import CheckpointError, ResourceError
from prunekit.foundation import files
from prunekit.foundation.locks import HOLDER, hold_unnamed, lock
from prunekit.runs import directory as runs
from prunekit.runs.new_directory import new_run_dir, point_latest
from prunekit.runs.tensors import read_tensors, write_tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


@pytest.fixture
def run(tmp_path):
    path = new_run_dir(tmp_path, "demo", "01234567")
    (path / "resolved.yaml").write_text("name: demo\n")
    return runs.open_run(path)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("done", "the run is done; it could not write this"),
        ("diverged", "the run diverged"),
        ("stopped", "did not get that far"),
    ],
)
def test_a_file_that_is_missing_is_told_by_how_the_run_ended(run, status, told):
    (run.path / "checkpoints" / "step-4").mkdir(parents=True)
    said = {"status": status, "exit_code": 0, "message": "", "step": 4}
    (run.path / "status.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=told):
        run.metrics()


@given(data=st.data())
def test_weights_with_a_flipped_bit_are_refused(folder, data):
    path = folder / "weights"
    write_tensors(path, {"w": torch.arange(6.0), "n": torch.tensor(3)}, {"prunekit": "{}"})
    assert read_tensors(path)[1] == {"prunekit": "{}"}
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(len(content) - 32, len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its digest"):
        read_tensors(path)


HOLD = "import sys\nfrom pathlib import Path\nfrom prunekit.foundation.locks import lock\n" + (
    "with lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_one_process_holds_a_run_and_a_kill_frees_it(run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match=f"in use by process {holder.pid} on "):
            lock(run.path).__enter__()
        holder.kill()
    with lock(run.path):
        pass
    with lock(run.path):
        pass


def test_who_holds_a_folder_can_take_its_name_away_before(tmp_path):
    mine, of_another = tmp_path / "mine", tmp_path / "of_another"
    mine.mkdir()
    of_another.mkdir()
    (of_another / HOLDER).write_text("{}")
    with lock(mine):
        for folder in (mine, of_another):
            hold_unnamed(folder)
        assert [path.name for path in mine.iterdir()] == [".lock"]
        with pytest.raises(ResourceError, match="in use by another process: wait"):
            lock(mine).__enter__()
    assert (of_another / HOLDER).exists()
    with lock(mine):
        pass


def test_what_is_no_run_is_told_with_a_remedy(tmp_path, run):
    with pytest.raises(CheckpointError, match=r"no such run directory.*prunekit run"):
        runs.open_run(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"give the folder that holds resolved\.yaml"):
        runs.open_run(tmp_path)
    (begun := tmp_path / "20260101T120000Z-01234567").mkdir()  # killed before it was anything
    with pytest.raises(CheckpointError, match="before its first checkpoint"):
        runs.open_run(begun)
    point_latest(run.path)
    with pytest.raises(CheckpointError, match=r"did you mean .*latest\?"):
        runs.open_run(run.path.parent)


@pytest.mark.parametrize(
    "what", ["manifest", "status", "report", "metrics", "initial_weights", "final_weights"]
)
def test_what_a_run_lacks_is_told_with_a_remedy(run, what):
    with pytest.raises(CheckpointError, match="begin it again with `prunekit run`"):
        getattr(run, what)()
    (run.path / "checkpoints" / "step-4").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="prunekit resume"):
        getattr(run, what)()


def test_run_without_masks_says_why(run):
    with pytest.raises(CheckpointError, match="ran no strategy, or did not finish"):
        run.masks()


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": 1', "[" * 100_000, "\x00"])
def test_documents_that_are_corrupt_are_refused(run, text):
    (run.path / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match="corrupt"):
        run.report()


def save_initial(run, tensors):
    step = run.path / "checkpoints" / "step-0"
    step.mkdir(parents=True)
    save_file(tensors, step / "weights.safetensors")
    digest = {"weights.safetensors": files.sha256(step / "weights.safetensors")}
    (step / "sha256.json").write_text(json.dumps(digest))
    return step / "weights.safetensors"


def test_initial_weights_are_checked(run):
    path = save_initial(run, {"w": torch.arange(5.0)})
    assert torch.equal(run.initial_weights()["w"], torch.arange(5.0))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        run.initial_weights()


def test_metrics_leave_out_a_line_cut_short(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1, "a": 2.0}\n[3]\n{"step": 2, "a"')
    assert run.metrics() == [{"step": 1, "a": 2.0}]


def test_a_series_is_one_key_over_the_steps(run):
    lines = ['{"step": 1, "a": 2}', '{"step": 1, "b": 0}', '{"step": 5, "a": null}']
    lines += ['{"step": 9, "a": 0.5, "b": 1}', '{"step": 12, "a": 7']
    (run.path / "metrics.jsonl").write_text("\n".join(lines))
    assert run.series("a") == [(1, 2.0), (9, 0.5)]
    assert run.series("b") == [(1, 0.0), (9, 1.0)]
    assert run.series("c") == []


def write_half(path):
    with files.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")


def test_documents_are_replaced_whole(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(ResourceError, match="No space left"):
        write_half(path)
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_reading_runs_imports_no_torch():
    code = "import prunekit.runs.directory, prunekit.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
