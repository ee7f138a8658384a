"""A process of a run is killed: what the others say, and that the run goes on to the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from prunekit import __main__ as main
from prunekit.errors import LostPeerError, StopRequestedError, WriteError
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.directory import open_run
from prunekit.train import meeting, supervised
from prunekit.train.distributed import is_lost_peer, join
from prunekit.train.finish import conclude
from prunekit.train.launch import _run
from prunekit.train.processes import Started, _worker, start_processes
from prunekit.train.trainer import Trainer
from tests.support.commands import Commands, Ended
from tests.support.ranks import TwoRanks
from tests.support.training import curve, recipe, result, run, same

pytestmark = pytest.mark.ddp

CHANGES = {"phases": [{"name": "train", "length": "60st"}], "checkpoint": {"every": "20st"}}
DIES = """
import os, signal
from pathlib import Path
from prunekit.train.trainer import Trainer

advance = Trainer.advance

def dying(self):
    mark, victim = Path(os.environ["MARK"]), os.environ["VICTIM"]
    if self.engine.step == 42 and os.environ["RANK"] == victim and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self)

Trainer.advance = dying
"""
"""The file of `--code`: one rank kills itself at step 42, once."""
LATER = """
import time
from prunekit.train.processes import Started

failed = Started.failed

def later(self, error):
    time.sleep(1)
    return failed(self, error)

Started.failed = later
"""
"""More of it: the one that is killed is found before the one that lost it."""
IN_TWO = ("run", "r.yaml", "--nproc", "2", "--code", "dies.py")


@pytest.fixture(scope="module")
def undisturbed(two_ranks: TwoRanks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_ranks(run, tmp_path_factory.mktemp("undisturbed"), **CHANGES)


def started(
    commands: Commands, folder: Path, victim: int, *words: str, code: str = DIES, **how: Any
) -> Ended:
    (folder / "r.yaml").write_text(dump_yaml(recipe(**CHANGES)))
    (folder / "dies.py").write_text(code)
    (folder / "tmp").mkdir(exist_ok=True)
    names = {"MARK": str(folder / "mark"), "VICTIM": str(victim), "TMPDIR": str(folder / "tmp")}
    return commands(*words, cwd=folder, env=names, apart=True, **how)


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs/tiny").glob("2*")
    return found


@pytest.mark.slow
def test_torchrun_starts_it_again_and_it_goes_on_in_the_same_directory(
    undisturbed: Path, commands: Commands, tmp_path: Path
) -> None:
    """The main rank is lost, whose part it is to write."""
    words = ["--max-restarts=1", main.__file__, "run", "r.yaml", "--code", "dies.py"]
    done = started(commands, tmp_path, 0, *words, call="tests.support.forks:torchrun")
    assert done.code == 0, done.error
    assert (tmp_path / "mark").exists()
    left = only_run(tmp_path)
    assert (
        "[rank 1] Error: a process of the run was lost or did not answer at step 42: go on from "
        f"step 40 with `prunekit resume runs/tiny/{left.name}`\n"
    ) in done.error
    assert open_run(left).status()["status"] == "done"
    assert same(result(left), result(undisturbed))
    assert curve(left) == curve(undisturbed)


@pytest.mark.slow
def test_a_pair_that_lost_one_says_where_to_go_on_and_leaves_nothing(
    undisturbed: Path, commands: Commands, tmp_path: Path
) -> None:
    ended = started(commands, tmp_path, 1, *IN_TWO, code=DIES + LATER)
    left = only_run(tmp_path)
    hint = f"go on from step 40 with `prunekit resume runs/tiny/{left.name}`"
    assert ended.code == 8
    assert [line for line in ended.error.splitlines() if line.startswith("Error")] == [
        f"Error: process 1 was ended by SIGKILL: the memory may not have been enough: {hint}"
    ]
    status = json.loads((left / "status.json").read_text())
    assert (status["status"], status["exit_code"], status["step"]) == ("failed", 8, 42)
    assert hint in status["message"]
    assert not list((tmp_path / "tmp").glob("torchelastic_*"))
    assert not list((tmp_path / "tmp").glob("prunekit-*"))
    assert not [*left.rglob("*.part"), *left.rglob(".lock.json")]

    again = started(commands, tmp_path, 1, *IN_TWO, "--continue", code=DIES + LATER)
    assert again.code == 0, again.error
    assert only_run(tmp_path) == left
    assert same(result(left), result(undisturbed))


@pytest.mark.slow
def test_an_error_in_one_process_is_told_with_its_place_and_not_as_a_lost_process(
    commands: Commands, tmp_path: Path
) -> None:
    bug = DIES.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError('a bug at 42')")
    ended = started(commands, tmp_path, 1, *IN_TWO, code=bug)
    assert ended.code == 7
    told = (
        r"Error: /.*/dies\.py:1\d raised ValueError: a bug at 42; once .* go on from step 40 with "
    )
    assert re.match(told, ended.error.splitlines()[-1])
    assert re.search(r'dies\.py", line 1\d, in dying', ended.error)


LATE = """
import os, signal, time
from pathlib import Path
from prunekit.train import supervised

conclude = supervised.conclude

def dying(trainer):
    conclude(trainer)
    if trainer.group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while not trainer.stopping.requests.times:
        time.sleep(0.1)

def ended(*_):
    Path("ended").touch()
    os._exit(143)

supervised.conclude = dying
if "RANK" in os.environ:
    signal.signal(signal.SIGTERM, ended)
"""
"""One rank kills itself, and the launcher asks the other to end when it has only to say `done`."""


@pytest.mark.parametrize(
    ("status", "error", "is_done"),
    [
        ("done", None, True),
        ("done", LostPeerError("process 1 was ended"), True),
        ("done", WriteError("the disk is full"), False),
        ("failed", None, False),
    ],
)
def test_only_what_is_done_is_no_failure_of_a_lost_process(
    tmp_path: Path, status: str, error: Exception | None, is_done: bool
) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"status": status}))
    processes = Started(tmp_path)
    assert processes.finished() is None  # none has begun a run
    processes.runs_in(tmp_path)
    if error:
        processes.failed(error)
    assert processes.finished() == (tmp_path if is_done else None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, "stopped before the run began"),
        (LostPeerError("process 1 is gone"), "stopped before the run began"),
        (StopRequestedError("stopped at step 3"), "stopped at step 3"),
    ],
)
def test_processes_that_a_signal_ends_as_they_start_were_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, told: str
) -> None:
    """No process was lost, and a batch script that queues the job again on 75 does."""

    def launched(_config: object, _worker: object) -> Any:
        def run(started: Started, *_: object) -> None:
            if error:
                started.failed(error)
            raise SignalException("told", signal.SIGTERM)

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launched)
    with pytest.raises(StopRequestedError, match=f"^{told}"):
        start_processes(2, 1, works, "", "")


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [(8, "a process was lost: go on"), (-9, "process 0 was ended by SIGKILL")],
)
def test_one_that_lost_another_may_be_found_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exit_code: int, told: str
) -> None:
    """It says what it knows, not that it ended."""

    def launched(_config: object, _worker: object) -> Any:
        def run(started: Started, *_: object) -> None:
            started.runs_in(tmp_path)
            started.failed(LostPeerError("a process was lost: go on"))
            failure = ProcessFailure(local_rank=0, pid=1, exitcode=exit_code, error_file="")
            raise ChildFailedError("work", {0: failure})

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launched)
    with pytest.raises(LostPeerError, match=f"^{told}"):
        start_processes(2, 1, works, "", "")


@pytest.mark.soak
def test_a_run_that_was_done_before_a_process_was_lost_is_done(
    commands: Commands, tmp_path: Path
) -> None:
    """`resume` would say that there is nothing to go on with. No process is waited for in vain."""
    ended = started(commands, tmp_path, 1, *IN_TWO, code=LATE)
    assert ended.code == 0, ended.error
    assert "test accuracy" in ended.text
    assert open_run(only_run(tmp_path)).status()["status"] == "done"
    assert (tmp_path / "ended").exists()  # by SIGTERM, not by the SIGKILL that torch sends later


def works(started: Started, text: str, out: str) -> str:
    return _run(started, text, text, out, "")


@pytest.mark.parametrize("times", [0, 1])
def test_a_process_that_is_asked_to_end_too_late_for_its_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Torch's own wrapper would wait for the other processes, which may be gone."""
    heard: list[int] = []

    def concluded(trainer: Trainer) -> None:
        conclude(trainer)
        for _ in range(times):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(supervised, "conclude", concluded)
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        text = dump_yaml(recipe(phases=[{"name": "train", "length": "2st"}]))
        done = _worker(Started(tmp_path), None, works, text, str(tmp_path / "runs"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Path(done) == only_run(tmp_path)
    assert heard == [signal.SIGTERM] * times


def meets(rank: int, store: dist.Store, found: dict[int, str]) -> None:
    asked = meeting._asked(store, rank) if rank else None
    found[rank] = asked or meeting._named(store, 3, timedelta(seconds=60))


def test_an_attempt_takes_nothing_from_the_store_of_an_earlier_one() -> None:
    """The second time ranks 1 and 2 come late: what they left the first time is there before."""
    store, attempts = dist.HashStore(), []
    for _ in range(2):
        found: dict[int, str] = {}
        threads = [threading.Thread(target=meets, args=(rank, store, found)) for rank in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join(60)
        assert len(set(found.values())) == 1
        attempts.append(found[0])
    assert attempts[0] != attempts[1]


def late_main(folder: Path) -> None:
    """The main rank is busy alone for longer than a step may take."""
    group = join()
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))  # that of a step
    if group.is_main:
        time.sleep(2.5)
    group.barrier()
    word = group.share("written" if group.is_main else "")
    if group.is_main:
        time.sleep(2.5)
    else:  # what must not wait does not
        try:
            group.total(torch.ones(1))
        except RuntimeError as error:
            word += f" {is_lost_peer(error)}"
    (folder / f"{group.rank}.txt").write_text(word)
    dist.destroy_process_group()


def test_the_others_wait_for_what_the_main_rank_does_alone(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    two_ranks(late_main, tmp_path)
    assert (tmp_path / "0.txt").read_text() == "written"
    assert (tmp_path / "1.txt").read_text() == "written True"


@pytest.mark.slow
def test_the_tasks_of_an_srun_are_the_ranks_of_one_run(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe(**CHANGES)))
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "OMP_NUM_THREADS": "1",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "prunekit", "run", "r.yaml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
        )
        for rank in "01"
    ]
    printed = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    assert "test accuracy" in printed[0]
    assert printed[1] == ""  # one speaks for all
    assert same(result(only_run(tmp_path)), result(undisturbed))
