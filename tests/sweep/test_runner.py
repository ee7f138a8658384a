"""Sweeps that are run: killed, stopped, grown, in one job and in two."""

import collections
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from prunekit.cli import main
from prunekit.errors import CheckpointError, StopRequestedError, WriteError
from prunekit.foundation.locks import lock
from prunekit.recipe.load import load_recipe, read_text
from prunekit.report import picture
from prunekit.runs.directory import open_run
from prunekit.sweep import open_sweep
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.directory import CellState, read_state, state_path, write_state
from prunekit.sweep.estimate import Estimate, estimate, shape_of
from prunekit.sweep.session import Session
from prunekit.sweep.slurm import Jobs, _split, private, run_pack
from prunekit.sweep.view import SweepProgress
from prunekit.sweep.workers import Task, TaskOutcome, Workers
from prunekit.train.launch import run_recipe
from tests.support.inline import Inline
from tests.support.training import result, same

BASE = """
name: base
data: {name: digits, batch_size: 64, train_limit: 256, test_limit: 100}
model: {name: mlp, hidden: [16]}
strategies: [{name: magnitude, sparsity: 0.5, cadence: {every: 3st}}]
optimizer: {name: adamw, lr: 0.005}
phases: [{name: train, length: 3ep}]
evaluate: {every: 100%}
checkpoint: {every: 4st}
"""
SWEEP = """
name: small
recipe: base.yaml
axes:
  sparsity: {path: strategies.0.sparsity, values: [0.5, 0.75]}
  seed: 0..0
arms:
  optimal:
    set: {strategies: [{name: optimal_subnetwork, source: iterative}]}
    without: [sparsity]
    needs: {strategies.0.source: iterative}
  iterative: {}
  dense: {set: {strategies: []}, collapse: [sparsity]}
"""


@pytest.fixture
def folder(tmp_path):
    """An empty place with a sweep file and its recipe."""
    return with_files(tmp_path)


def with_files(folder, sweep=SWEEP, base=BASE):
    (folder / "base.yaml").write_text(base)
    (folder / "sweep.yaml").write_text(sweep)
    return folder


def sweep(folder, *words, code=0, executor=None, retry_failed=False):
    """Run the sweep in this process -> its directory."""
    asked = read_command_line(str(folder / "sweep.yaml"), words)
    session = Session(asked, folder / "out", retry_failed=retry_failed)
    assert session.run(executor or Inline(), None, 1) == code
    return open_sweep(session.folder)


def drawn(folder, draw):
    asked = read_command_line(str(folder / "sweep.yaml"), ["sparsity=0.5"])
    session = Session(asked, folder / "out", draw=draw)
    assert session.run(Inline(), None, 1) == 0
    return [cell.run.path / "report.png" for cell in open_sweep(session.folder).cells]


def test_each_run_has_its_picture_and_is_drawn_once(folder):
    calls = []

    def draw(run):
        calls.append(run)
        return picture(run)

    pictures = drawn(folder, draw)
    assert {path.parent for path in pictures} == {*calls}
    assert all(path.is_file() for path in pictures)
    assert len(calls) == len({*calls})
    drawn(folder, draw)
    assert len(calls) == len({*pictures})  # what is done is not drawn again


def test_a_picture_that_cannot_be_drawn_fails_no_run(folder, capsys):
    def draw(run):
        raise OSError("no space left for pictures")

    assert not any(path.is_file() for path in drawn(folder, draw))
    assert "no space left for pictures" in capsys.readouterr().err


def command(folder, *options):
    """The same through the command line -> the exit code."""
    with pytest.raises(SystemExit) as exit_info:
        main(["sweep", str(folder / "sweep.yaml"), "--out", str(folder / "out"), *options])
    return exit_info.value.code


def results(opened):
    """Cell -> weights at the end, and masks where there are any."""
    return {cell.id: outcome(cell.run.path) for cell in opened.cells}


def outcome(run):
    weights = open_run(run).final_weights()
    return result(run) if (run / "masks.safetensors").is_file() else weights


def equal(first, second):
    return first.keys() == second.keys() and all(same(first[cell], second[cell]) for cell in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep, undisturbed."""
    return sweep(with_files(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The sweep of one sparsity, undisturbed: three runs."""
    return sweep(with_files(tmp_path_factory.mktemp("half")), "sparsity=0.5")


@pytest.fixture
def finished(half, folder):
    """A copy of it beside the sweep file, to be disturbed."""
    shutil.copytree(half.path.parent, folder / "out", symlinks=True)
    return open_sweep(folder / "out" / half.name)


def test_every_cell_is_the_run_of_its_recipe(whole, tmp_path):
    assert [cell.status for cell in whole.cells] == ["done"] * 5
    for cell in whole.cells:
        assert cell.run.status()["status"] == "done"
        assert cell.run.recipe().name == cell.arm
        if not cell.needs:
            alone = run_recipe(
                load_recipe(whole.path / "resolved" / f"{cell.key}.yaml"), out=tmp_path
            )
            assert same(outcome(cell.run.path), outcome(alone))


def test_a_cell_takes_the_run_of_its_own_cell(whole):
    runs = {cell.id: cell for cell in whole.cells}
    for sparsity in ("0.5", "0.75"):
        optimal = runs[f"optimal/sparsity={sparsity},seed=0"]
        source = runs[optimal.needs["strategies.0.source"]]
        assert source.id == f"iterative/sparsity={sparsity},seed=0"
        assert same(optimal.run.masks(), source.run.masks())
        assert optimal.run.recipe().strategies[0].source == str(source.run.path)


def test_the_directory_tells_the_plan(whole, folder):
    assert whole.name == "small"
    assert whole.axes == {"sparsity": ("0.5", "0.75"), "seed": ("0",)}
    assert whole.arms == ("optimal", "iterative", "dense")
    (dense,) = (cell for cell in whole.cells if cell.arm == "dense")
    assert dense.axes == {"sparsity": "0.5", "seed": "0"}
    assert dense.also == ({"sparsity": "0.75", "seed": "0"},)
    assert (whole.path / "sweep.yaml").read_text() == SWEEP
    with pytest.raises(CheckpointError, match="not a sweep directory"):
        open_sweep(folder)


@pytest.mark.slow
def test_two_jobs_give_what_one_process_gives(half, folder, capsys):
    assert command(folder, "sparsity=0.5", "--jobs", "2") == 0
    assert equal(results(open_sweep(folder / "out" / "small")), results(half))
    printed = capsys.readouterr().out
    assert "3 runs done, 0 failed" in printed
    assert re.search(r"the estimate was .* \(measured / estimated [0-9.]+\)", printed)
    assert "iterative/" not in printed  # quiet where nobody looks


def test_what_is_done_is_not_run_again_and_a_grown_sweep_runs_only_what_is_new(
    whole, finished, folder, capsys
):
    runs = {cell.key: cell.run.path for cell in finished.cells}
    assert len(runs) == 3
    assert command(folder, "sparsity=0.5") == 0  # nothing to time, nothing to run
    assert "3 runs, 3 done, 0 failed, 0 to run" in capsys.readouterr().out
    assert open_sweep(finished.path).cells == finished.cells
    grown = sweep(folder)
    assert len(grown.cells) == 5
    assert {cell.key: cell.run.path for cell in grown.cells if cell.key in runs} == runs
    assert len(list((grown.path / "runs").glob("*/2*"))) == 5
    assert "2 runs took" in capsys.readouterr().out
    assert equal(results(grown), results(whole))
    assert command(folder, "sparsity=0.5", "--dry-run") == 0
    assert "2 runs of an earlier plan are not in this one" in capsys.readouterr().out


def test_the_plan_is_arms_by_axes_with_a_time_and_leaves_nothing(folder, capsys):
    asked = read_command_line(str(folder / "sweep.yaml"))
    session = Session(asked, folder / "out")
    times = estimate(session.left, Inline())
    assert times.seconds.keys() == {cell.key for cell in session.left}
    assert all(seconds > 0 for seconds in times.seconds.values())
    assert not times.untimed
    session.show(times, 1000)
    printed = capsys.readouterr().out
    assert "small: 5 runs" in printed
    assert "about " in printed
    assert "1000 x 1 threads share" in printed
    rows = {line.split()[0]: line.split()[1:4] for line in printed.splitlines() if line.strip()}
    assert rows["optimal"] == ["2", "1", "2"]  # sparsities, seeds, runs
    assert rows["iterative"] == ["2", "1", "2"]
    assert rows["dense"] == ["1", "for", "2"]
    assert not (folder / "out").exists()


def test_a_longer_run_of_the_same_shape_is_estimated_longer_without_timing_it_again(folder):
    asked = read_command_line(str(folder / "sweep.yaml"), ["phases.0.length=3ep,300ep"])
    cells = [c for c in Session(asked, folder / "out").left if c.arm == "dense"]
    assert len({shape_of(cell) for cell in cells}) == 1
    short, long = estimate(cells, Inline()).seconds.values()
    assert long > 3 * short


def test_a_probe_that_follows_another_run_is_timed_without_it(folder):
    followed = SWEEP.replace(
        "{strategies: [{name: optimal_subnetwork, source: iterative}]}",
        "{probes: [{name: burden, support: iterative}]}",
    )
    with_files(folder, followed.replace("strategies.0.source", "probes.0.support"))
    cells = Session(read_command_line(str(folder / "sweep.yaml")), folder / "out").left
    assert not estimate(cells, Inline()).untimed


# ---- what fails


def test_a_failed_cell_is_recorded_and_does_not_stop_the_rest(folder, capsys):
    text = SWEEP.replace("iterative: {}", "iterative: {set: {optimizer.lr: 1.0e+30}}")
    with_files(folder, text)
    opened = sweep(folder, "sparsity=0.5", code=6)
    printed = capsys.readouterr().out
    cells = {cell.arm: cell for cell in opened.cells}
    assert (cells["dense"].status, cells["iterative"].status) == ("done", "failed")
    assert "not finite" in cells["iterative"].error
    assert cells["iterative"].run.status()["status"] == "diverged"
    assert cells["optimal"].status == "failed"
    assert cells["optimal"].error == "needs iterative/sparsity=0.5,seed=0, which failed"
    assert "1 runs done, 2 failed" in printed
    assert "--retry-failed" in printed
    runs = sorted((opened.path / "runs").glob("*/2*"))
    sweep(folder, "sparsity=0.5", code=6)  # known to fail
    assert sorted((opened.path / "runs").glob("*/2*")) == runs


def test_failed_cells_are_tried_again_when_asked(finished, folder):
    (cell,) = (cell for cell in finished.cells if cell.arm == "dense")
    write_state(finished.path, cell.key, CellState("failed", None, "no memory", 8, 1.0))
    assert sweep(folder, "sparsity=0.5", code=8).cells != finished.cells
    assert sweep(folder, "sparsity=0.5", retry_failed=True).cells == finished.cells


def test_finished_runs_do_not_stand_for_other_data(whole, folder, capsys):
    out = folder / "out"
    shutil.copytree(whole.path.parent, out)
    assert command(folder, "data.root=elsewhere") == 2
    told = capsys.readouterr().err
    assert "its finished runs have data.root null, this sweep has elsewhere" in told
    assert len(told.splitlines()) == 1


def test_a_run_that_was_deleted_is_made_again(finished, folder):
    (cell,) = (cell for cell in finished.cells if cell.arm == "dense")
    shutil.rmtree(cell.run.path)
    again = sweep(folder, "sparsity=0.5")
    (made,) = (cell for cell in again.cells if cell.arm == "dense")
    assert (made.run.path / "report.json").is_file()
    assert len(list((finished.path / "runs" / "dense").glob("2*"))) == 1


def test_a_bad_sweep_touches_nothing(folder, capsys):
    assert command(folder, "arms=x") == 3
    assert "override 'arms=x'" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_data_that_is_not_there_is_told_before_anything_runs(folder, capsys):
    with_files(folder, base=BASE.replace("{name: digits,", "{name: mnist, root: nowhere,"))
    assert command(folder) == 4
    assert "nowhere" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_one_sweep_a_directory(whole, capsys):
    folder = whole.path.parent.parent
    with lock(whole.path):
        assert command(folder) == 8
    told = capsys.readouterr()
    assert "in use by process" in told.err
    assert told.out == ""  # no step was timed for nothing


# ---- killed and stopped


def interrupted(commands, folder, how):
    """Start the sweep and stop it in the middle of a run -> exit code, what it printed, runs."""
    process = commands.begin(
        "sweep", "sweep.yaml", "sparsity=0.5", "--out", "out", cwd=folder, below=folder,
        on="prunekit.train.trainer:Trainer._after_step", at=6, what="hold", worker=True,
    )  # fmt: skip
    process.until("held")
    process.signal(how)
    ended = process.end()
    return ended.code, ended.text, {p.name for p in folder.glob("out/small/runs/*/2*")}


@pytest.mark.slow
def test_a_sweep_that_was_killed_and_stopped_goes_on_to_the_same_table(half, commands, folder):
    code, _, killed = interrupted(commands, folder, "SIGKILL")
    assert code == -signal.SIGKILL
    code, printed, stopped = interrupted(commands, folder, "SIGINT")
    assert code == 75, printed
    assert "the same command goes on" in printed, printed
    opened = sweep(folder, "sparsity=0.5")
    assert equal(results(opened), results(half))
    assert killed | stopped <= {cell.run.path.name for cell in opened.cells}  # none begun anew


# ---- the workers


def outcomes(workers, tasks):
    waiting, ended = list(tasks), {}
    while waiting or workers.busy:
        while waiting and workers.room:
            workers.submit(waiting.pop(0))
        ended |= {outcome.task.tag: outcome for outcome in workers.finished(1.0)}
    return ended


def test_a_process_that_dies_takes_only_its_own_task(tmp_path):
    tasks = [
        Task("killed", signal.raise_signal, (signal.SIGKILL,)),
        Task("says", print, ("a line",), tmp_path / "log.txt"),
        Task("fault", signal.raise_signal, (signal.SIGSEGV,)),
        Task("fails", read_text, (tmp_path / "nowhere",)),
        Task("counts", sum, ((1, 2),)),
    ]
    with Workers(2) as workers:
        ended = outcomes(workers, tasks)
    assert "SIGKILL: the memory may not have been enough" in ended["killed"].died
    assert "SIGSEGV" in ended["fault"].died
    assert "nowhere: No such file" in str(ended["fails"].error)
    assert (ended["counts"].value, ended["says"].died) == (3, None)
    assert (tmp_path / "log.txt").read_text() == "a line\n"


class Dying(Inline):
    """An executor whose processes all die."""

    def submit(self, task):
        self.ended.append(TaskOutcome(task, died="its process was ended by SIGKILL"))


def test_a_cell_whose_process_died_has_failed(folder, capsys):
    opened = sweep(folder, code=8, executor=Dying())
    assert {cell.status for cell in opened.cells} == {"failed"}
    (dense,) = (cell for cell in opened.cells if cell.arm == "dense")
    assert (dense.error, dense.run) == ("its process was ended by SIGKILL", None)
    assert "0 runs done, 5 failed" in capsys.readouterr().out


class Unready(Inline):
    """An executor whose processes end of a stop, before they can save, so many times a task."""

    def __init__(self, times):
        super().__init__()
        self.left = collections.Counter()
        self.times = times

    def submit(self, task):
        self.left[task.tag] += 1
        if self.left[task.tag] > self.times:
            super().submit(task)
        else:
            died = "its process was ended by SIGTERM"
            self.ended.append(TaskOutcome(task, died=died, stopped=True))


def test_a_cell_whose_process_was_stopped_unready_is_run_again_once(folder):
    assert {cell.status for cell in sweep(folder, executor=Unready(1)).cells} == {"done"}


def test_a_cell_whose_process_is_stopped_each_time_has_failed(folder):
    opened = sweep(folder, code=8, executor=Unready(9))
    assert {cell.status for cell in opened.cells} == {"failed"}


def test_a_deleted_run_whose_repetition_dies_has_failed(finished, folder):
    (dense,) = (cell for cell in finished.cells if cell.arm == "dense")
    shutil.rmtree(dense.run.path)
    again = sweep(folder, "sparsity=0.5", code=8, executor=Dying())
    assert [cell.arm for cell in again.cells if cell.status == "failed"] == ["dense"]


class Full(Inline):
    """An executor on a disk that is full after one cell."""

    def submit(self, task):
        if any((task.arguments[0] / "cells").iterdir()):
            full = WriteError("out: cannot be written: No space left on device")
            self.ended.append(TaskOutcome(task, error=full))
        else:
            super().submit(task)


def test_a_full_disk_ends_the_sweep_and_counts_nothing_as_failed(folder):
    with pytest.raises(WriteError, match="No space left"):
        sweep(folder, "sparsity=0.5", executor=Full())
    left = open_sweep(folder / "out" / "small")
    assert sorted(cell.status for cell in left.cells) == ["done", "pending", "pending"]
    assert {cell.status for cell in sweep(folder, "sparsity=0.5").cells} == {"done"}


def test_a_run_that_lacked_space_goes_on_where_it_was(finished, folder):
    (dense,) = (cell for cell in finished.cells if cell.arm == "dense")
    state_path(finished.path, dense.key).unlink()
    status = json.loads((dense.run.path / "status.json").read_text())
    status |= {"status": "failed", "exit_code": WriteError.exit_code}
    (dense.run.path / "status.json").write_text(json.dumps(status))
    again = sweep(folder, "sparsity=0.5")
    (resumed,) = (cell for cell in again.cells if cell.arm == "dense")
    assert resumed.run.path == dense.run.path
    assert [read_state(again.path, cell.key).resumed for cell in again.cells].count(True) == 1


@pytest.mark.parametrize(
    "text",
    ['{"status": "do', "[1]", "{}", '{"status": "x", "run": null}', '{"status": "done", "run": 1}'],
)
def test_a_corrupt_cell_says_what_to_do(tmp_path, text):
    state_path(tmp_path, "a").parent.mkdir()
    state_path(tmp_path, "a").write_text(text)
    with pytest.raises(CheckpointError, match=r"corrupt.*: delete it to run the cell again"):
        read_state(tmp_path, "a")


# ---- Slurm


def test_the_warning_of_a_time_limit_stops_a_run_as_sigterm_does():
    def stop(signum, frame):
        raise StopRequestedError("saved")

    kinds = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(kind, stop) for kind in kinds]
    try:
        calls = [(sum, ((1, 2),)), (signal.raise_signal, (signal.SIGUSR2,)), (sum, ((3, 4),))]
        assert run_pack(calls) == [3]
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


class Interrupting(Inline):
    """An executor whose every task is stopped once before it gets anywhere."""

    def __init__(self):
        super().__init__()
        self.stopped = set()

    def submit(self, task):
        if task.tag in self.stopped:
            super().submit(task)
        else:
            self.stopped.add(task.tag)
            self.ended.append(TaskOutcome(task))


def test_what_was_stopped_from_outside_goes_on(folder):
    opened = sweep(folder, "sparsity=0.5", executor=Interrupting())
    assert {cell.status for cell in opened.cells} == {"done"}


@pytest.mark.slow
def test_slurm_jobs_in_packs_give_the_same(whole, folder):
    submitit = pytest.importorskip("submitit", reason="needs prunekit[slurm]")
    jobs = private(folder / "out" / "small")
    assert jobs.stat().st_mode & 0o077 == 0
    executor = submitit.LocalExecutor(folder=jobs)
    executor.update_parameters(timeout_min=5)
    opened = sweep(folder, "sparsity=0.5", executor=Jobs(executor, pack=2))
    alone = {cell: run for cell, run in results(whole).items() if "0.75" not in cell}
    assert equal(results(opened), alone)
    names = {path.name.partition("_")[0] for path in jobs.glob("*_submitted.pkl")}
    assert len(names) == 2  # the two that need nothing, then the one that needs


def test_without_submitit_slurm_is_one_clear_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert command(folder, "--slurm") == 2
    assert capsys.readouterr().err == (
        "Error: --slurm needs submitit: install it with pip install 'prunekit[slurm]'\n"
    )
    assert not (folder / "out").exists()


def test_where_no_slurm_is_nothing_is_written(folder, capsys, monkeypatch):
    pytest.importorskip("submitit", reason="needs prunekit[slurm]")
    monkeypatch.setenv("PATH", "")
    assert command(folder, "--slurm", "--slurm-set", "gpus=1") == 2
    assert (
        capsys.readouterr().err
        == "Error: --slurm: there is no srun here: run this where Slurm is\n"
    )
    assert command(folder, "--slurm", "--slurm-set", "gpus") == 2
    assert "write key=value" in capsys.readouterr().err
    assert command(folder, "--slurm", "--dry-run") == 0
    assert "no time estimate" in capsys.readouterr().out
    assert not (folder / "out").exists()


def test_settings_of_slurm_are_its_own_or_sbatchs():
    submitit = pytest.importorskip("submitit", reason="needs prunekit[slurm]")
    known = submitit.SlurmExecutor._valid_parameters()
    assert _split(["partition=gpu", "time=90", "gpus=1", "cpus-per-task=2"], known) == (
        {"partition": "gpu", "time": 90, "cpus_per_task": 2},
        {"gpus": 1},
    )


# ---- what a person sees


def test_a_terminal_gets_a_line_for_each_run(whole, capsys):
    screen = Console(force_terminal=True, color_system=None, width=80, height=20)
    cells = [cell for cell in whole.cells if cell.arm == "iterative"]
    progress = SweepProgress(screen, whole.path, 2, Estimate({c.key: 10.0 for c in cells}, {}), 2)
    for cell in cells:
        progress.tell(cell, CellState("done", str(cell.run.path), seconds=20.0))
    first, second = capsys.readouterr().out.splitlines()
    accuracy = f"{cells[0].run.report()['accuracy']['test_top1']:.2%}"
    assert first == f"[1/2] iterative/sparsity=0.5,seed=0  {accuracy}  20.0 s  20.0 s left"
    assert second.startswith("[2/2] iterative/sparsity=0.75,seed=0")
    assert "left" not in second


def test_the_schema_knows_the_keys_of_a_sweep(capsys):
    with pytest.raises(SystemExit):
        main(["schema", "--sweep"])
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {"name", "recipe", "reference", "set", "axes", "arms"}
    arm = schema["definitions"]["ArmFile"]["properties"]
    assert set(arm) == {"recipe", "set", "without", "collapse", "needs"}


# ---- imports


def test_planning_and_reading_import_no_torch():
    code = (
        "import sys, prunekit.sweep.session, prunekit.cli.sweep; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_corrupt_plan_is_told(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(CheckpointError, match="another version"):
        open_sweep(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"format": 1, "name": "a"}))
    with pytest.raises(CheckpointError, match="corrupt"):
        open_sweep(Path(tmp_path))
