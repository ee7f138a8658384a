"""`run --continue`: the same directory, to the bits of an undisturbed run; and never another's."""

import json
import os
import shutil
from pathlib import Path

import pytest

from prunekit.errors import DivergedError, ResourceError
from prunekit.foundation.locks import lock
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.directory import newest_of, open_run
from prunekit.train import launch
from prunekit.train.launch import resume_run, run_recipe
from prunekit.train.lost import lost_peer
from tests.support.training import curve, recipe, result, rewound, run, same


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"))


def killed(whole: Path, out: Path, step: int = 20) -> Path:
    (out / "tiny").mkdir(parents=True, exist_ok=True)
    return rewound(whole, step, out / "tiny" / whole.name)


def runs_in(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "tiny").glob("2*"))


def go_on(out: Path, **changes) -> Path:
    return run_recipe(recipe(**changes), out=out, go_on=True)


def test_a_recipe_that_was_never_begun_is_begun(whole, tmp_path) -> None:
    done = go_on(tmp_path)
    assert same(result(done), result(whole))
    assert runs_in(tmp_path) == [done.name]


def test_a_killed_run_goes_on_where_it_was(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    (left / "checkpoints" / ".step-25.part").mkdir()
    (left / ".status.json.4242.part").write_text("{")
    done = go_on(tmp_path)
    assert done.resolve() == left.resolve()
    assert runs_in(tmp_path) == [left.name]
    assert same(result(done), result(whole))
    assert curve(done) == curve(whole)
    assert not list(done.rglob(".*.part"))  # what the kill left half-written


def test_a_run_that_is_done_stays_as_it_is_and_says_so(whole, tmp_path, capsys) -> None:
    shutil.copytree(whole, tmp_path / "tiny" / whole.name)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    done = go_on(tmp_path)
    assert f"{done}: is done already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == files


def test_another_recipe_in_the_same_place_is_another_run(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    other = go_on(tmp_path, seed=1)
    assert other.name != left.name
    assert open_run(left).status()["status"] == "running"
    forged = json.loads((left / "manifest.json").read_text())
    (left / "manifest.json").write_text(json.dumps(forged | {"recipe_hash": "0" * 64}))
    assert newest_of(tmp_path, recipe()) is None  # the name of a folder proves nothing


def test_the_newest_run_of_a_recipe_decides(whole, tmp_path) -> None:
    old = killed(whole, tmp_path).rename(tmp_path / "tiny" / f"20200101T000000Z-{hash8(whole)}")
    shutil.copytree(whole, tmp_path / "tiny" / f"20200102T000000Z-{hash8(whole)}")
    newest = shutil.copytree(whole, tmp_path / "tiny" / f"20200102T000000Z-{hash8(whole)}-10")
    shutil.copytree(whole, tmp_path / "tiny" / f"20200102T000000Z-{hash8(whole)}-9")
    assert newest_of(tmp_path, recipe()) == newest
    assert go_on(tmp_path) == newest
    assert open_run(old).status()["status"] == "running"


def hash8(run_dir: Path) -> str:
    return run_dir.name.split("-")[1]


def test_a_run_without_a_checkpoint_begins_again_in_its_directory(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    shutil.rmtree(left / "checkpoints")
    (left / "status.json").unlink()
    done = go_on(tmp_path)
    assert done.resolve() == left.resolve()
    assert same(result(done), result(whole))
    assert [line["step"] for line in curve(done)] == [line["step"] for line in curve(whole)]


def test_a_run_that_diverged_would_again(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    (left / "status.json").write_text('{"status": "diverged", "exit_code": 6, "message": "x"}')
    with pytest.raises(DivergedError, match="diverged, and would again: change the recipe"):
        go_on(tmp_path)


def test_a_run_that_is_at_work_is_not_doubled(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    with lock(left), pytest.raises(ResourceError, match="in use by process"):
        go_on(tmp_path)
    assert runs_in(tmp_path) == [left.name]


def test_of_calls_that_find_nothing_at_once_one_begins(tmp_path, monkeypatch) -> None:
    """The other looks while the first reads its data, so neither has a directory yet."""
    real, others = launch.build, []

    def slow(*args, **kwargs):
        if not others:
            others.append("looks")
            with pytest.raises(ResourceError, match=f"in use by process {os.getpid()} on"):
                go_on(tmp_path)
            others.append(go_on(tmp_path, seed=1))  # another recipe of the name is not held up
        return real(*args, **kwargs)

    monkeypatch.setattr(launch, "build", slow)
    done = go_on(tmp_path)
    assert runs_in(tmp_path) == sorted([done.name, others[1].name])
    assert go_on(tmp_path) == done.resolve()


def test_a_copy_that_somebody_keeps_is_no_run_to_go_on_with(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    for name in (f"{left.name}.bak", f"{left.name}-copy", f"old-{left.name}"):
        shutil.copytree(left, tmp_path / "tiny" / name)
    assert newest_of(tmp_path, recipe()) == left


@pytest.mark.parametrize("again", [lambda left: go_on(left.parents[1]), resume_run])
def test_a_run_without_a_readable_status_goes_on_from_its_checkpoint(
    whole, tmp_path, again
) -> None:
    left = killed(whole, tmp_path)
    (left / "status.json").write_text("{")
    assert same(result(again(left)), result(whole))


def test_what_only_watches_stays_as_it_was_begun_and_is_told(whole, tmp_path) -> None:
    killed(whole, tmp_path)
    done = go_on(tmp_path, logging={"every": "3st"}, probes=[{"name": "gradient_norm"}])
    told = "logging, probes: as the run began, not as the recipe has it now"
    assert told in open_run(done).report()["warnings"]
    assert [line["step"] for line in curve(done)] == [line["step"] for line in curve(whole)]


def test_after_a_restart_by_torchrun_only_the_same_launch_goes_on(
    whole, tmp_path, monkeypatch
) -> None:
    left = killed(whole, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "ours")
    other = run_recipe(recipe(), out=tmp_path)
    assert other.name != left.name  # that one is of no launch
    assert open_run(other).manifest()["launch"] == "ours"
    assert run_recipe(recipe(), out=tmp_path) == other.resolve()  # done, and of this launch
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert run_recipe(recipe(), out=tmp_path).name not in (other.name, left.name)


def test_a_launch_without_a_name_takes_no_run_that_another_is_at_work_on(whole, tmp_path) -> None:
    left = killed(whole, tmp_path)
    manifest = json.loads((left / "manifest.json").read_text())
    (left / "manifest.json").write_text(json.dumps(manifest | {"launch": "none"}))
    assert newest_of(tmp_path, recipe(), "none") == left
    with lock(left):
        assert newest_of(tmp_path, recipe(), "none") is None


@pytest.mark.parametrize(("status", "becomes"), [("running", "failed"), ("done", "done")])
def test_whoever_is_left_writes_that_a_process_was_lost(whole, tmp_path, status, becomes) -> None:
    left = killed(whole, tmp_path)
    (left / "status.json").write_text(json.dumps({"status": status, "step": 20}))
    error = lost_peer(left, 22)
    assert error.exit_code == 8
    assert str(error).endswith(f"at step 22: go on from step 20 with `prunekit resume {left}`")
    found = open_run(left).status()
    assert found["status"] == becomes
    assert found.get("message", str(error)) == str(error)
    shutil.rmtree(left / "checkpoints")
    assert "has no checkpoint yet: begin the run again" in str(lost_peer(left, 2))


def test_the_command_line_passes_it_on(whole, tmp_path, call, monkeypatch) -> None:
    left = killed(whole, tmp_path / "runs")
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe()))
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("run", "r.yaml", "--continue")
    assert code == 0
    assert left.name in out
    assert runs_in(tmp_path / "runs") == [left.name]


@pytest.mark.ddp
def test_a_run_of_one_process_is_resumed_in_two(whole, commands, tmp_path) -> None:
    """The batch is shared out anew, so only rounding differs; told in one sentence."""
    done = killed(whole, tmp_path)
    ended = commands("resume", done, "--nproc", 2)
    assert ended.code == 0, ended.text
    report = open_run(done).report()
    assert report["environment"]["world_size"] == 2
    assert any("world_size was 1 when the run began and is 2" in w for w in report["warnings"])
    losses = [[m["train/loss"] for m in curve(p) if "train/loss" in m] for p in (done, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
