"""Requests to stop in each state of a command, and two commands at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.undisturbed import Undisturbed, goes_on, left_over, run_dirs, told_plainly
from tests.support.commands import Commands
from tests.support.training import curve, result, rewound, same

OPENS = "prunekit.train.launch:build"
STOPS = {
    "before the first step": "prunekit.train.trainer:Trainer.fit",
    "in a step": "prunekit.train.passes:Passes.gradients",
    "evaluating": "prunekit.train.passes:Passes.evaluate",
    "saving": "prunekit.train.trainer:save_checkpoint",
}


SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
STATES = [(w, n, t) for w in STOPS for n in SIGNALS for t in (0, 0.05, 1.1)]


@pytest.mark.parametrize(
    ("where", "name", "twice"),
    [
        ("evaluating", "SIGTERM", 0),
        ("in a step", "SIGINT", 1.1),
        *(pytest.param(*state, marks=pytest.mark.soak) for state in STATES),
    ],
)
def test_a_signal_stops_a_run_that_goes_on(
    commands: Commands, whole: Undisturbed, where: str, name: str, twice: float
) -> None:
    out = whole.folder / f"{where} {name} {twice}"
    ended = commands(
        "run", whole.recipe, "--out", out, below=out, at=1, what=name, twice=twice,
        on=STOPS[where],
    )  # fmt: skip
    told_plainly(ended)
    # a terminal and a launcher send it twice in a moment, and a person twice with a reason
    assert ended.code == (130 if twice > 1 else 75), ended.text
    assert ended.text.splitlines()[-1].startswith(("Stopped", "Interrupted")), ended.text
    goes_on(commands, whole, out, 1)


@pytest.mark.parametrize("name", ["SIGTERM", *(pytest.param("SIGHUP", marks=pytest.mark.soak),)])
def test_a_signal_while_a_run_opens_its_data_leaves_it_free(
    commands: Commands, whole: Undisturbed, tmp_path: Path, name: str
) -> None:
    """It holds the directory by then."""
    run = rewound(whole.run, 4, tmp_path / "tiny" / whole.run.name)
    ended = commands("resume", run, below=tmp_path, at=1, what=name, on=OPENS)
    assert ended.code == 75, ended.text
    assert ended.text.splitlines()[-1].startswith(f"Stopped by {name}: "), ended.text
    assert not left_over(tmp_path)
    assert json.loads((run / "status.json").read_text())["status"] == "running"


def test_of_two_resumes_at_once_one_goes_on(
    commands: Commands, whole: Undisturbed, tmp_path: Path
) -> None:
    """The first is held in a step, and then asked to stop."""
    run = rewound(whole.run, 4, tmp_path / "tiny" / whole.run.name)
    first = commands.begin("resume", run, below=tmp_path, at=1, what="hold", on=STOPS["in a step"])
    first.until("held")
    second = commands("resume", run)
    told_plainly(second)
    assert second.code == 8
    assert f"in use by process {first.pid} on" in second.text
    first.signal("SIGTERM")
    stopped = first.end()
    assert stopped.code == 75, stopped.text
    assert commands("resume", run).code == 0
    assert same(result(run), whole.tensors)
    assert curve(run) == curve(whole.run)
    assert not left_over(tmp_path)


@pytest.mark.soak
def test_of_two_resumes_in_one_moment_the_run_is_whole(
    commands: Commands, whole: Undisturbed, tmp_path: Path
) -> None:
    for number in range(10):
        out = tmp_path / f"{number}"
        run = rewound(whole.run, 4, out / "tiny" / whole.run.name)
        ended = [begun.end() for begun in [commands.begin("resume", run) for _ in range(2)]]
        for one in ended:
            told_plainly(one)
        assert sorted(one.code for one in ended) in ([0, 5], [0, 8])  # done, or at work
        goes_on(commands, whole, out, 1)


@pytest.mark.parametrize(
    ("name", "twice"),
    [
        ("SIGINT", 0),
        *(pytest.param(n, t, marks=pytest.mark.soak) for n in SIGNALS for t in (0, 0.05, 1.1)),
    ],
)
def test_a_signal_while_the_picture_is_drawn_takes_nothing_from_a_run_that_is_done(
    commands: Commands, whole: Undisturbed, tmp_path: Path, name: str, twice: float
) -> None:
    ended = commands(
        "run", whole.recipe, "--out", tmp_path, below=tmp_path, at=1, what=name, twice=twice,
        on="matplotlib.figure:Figure.savefig", picture=True,
    )  # fmt: skip
    told_plainly(ended)
    assert ended.code == 0, ended.text
    assert "test accuracy" in ended.text
    (run,) = run_dirs(tmp_path)
    assert (run / "report.png").stat().st_size > 0
    assert not left_over(tmp_path)
    assert same(result(run), whole.tensors)


SWEEPS = {
    "timing steps": "prunekit.sweep.estimate:_all_of",
    "showing the plan": "prunekit.sweep.session:plan_view",
    "writing the plan": "prunekit.sweep.prepare:_write",
    "running a cell": "prunekit.sweep.runner:_Work.take",
}


@pytest.mark.parametrize(
    ("where", "name", "twice"),
    [
        ("timing steps", "SIGTERM", 0),
        *(
            pytest.param(where, name, twice, marks=pytest.mark.soak)
            for where in SWEEPS
            for name in SIGNALS
            for twice in (0, 1.1)
        ),
    ],
)
def test_a_signal_stops_a_sweep_that_goes_on(
    commands: Commands, whole: Undisturbed, tmp_path: Path, where: str, name: str, twice: float
) -> None:
    words = ("sweep", whole.recipe, "seed=0", "--out", tmp_path)
    ended = commands(*words, below=tmp_path, at=1, what=name, twice=twice, on=SWEEPS[where])
    told_plainly(ended)
    assert ended.code in ((75, 130) if twice else (75,)), ended.text
    assert ended.text.splitlines()[-1].startswith(("Stopped", "Interrupted")), ended.text
    assert not list(commands.temporary.glob("prunekit-*"))
    if where != "timing steps" or name == "SIGINT":
        again = commands(*words)
        assert again.code == 0, again.text
        assert not left_over(tmp_path)


IMPORTING = """
import os, signal, sys
left = [signal.Signals[os.environ["SIGNAL"]]]

def look(event, arguments):
    if event == "import" and arguments[0] == "torch.nn" and left:
        os.kill(os.getpid(), left.pop())

sys.addaudithook(look)
"""


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGINT", pytest.param("SIGHUP", marks=pytest.mark.soak)]
)
def test_a_signal_while_torch_is_imported_leaves_nothing(
    whole: Undisturbed, tmp_path: Path, name: str
) -> None:
    """Nothing was begun: it ends at once, and says so."""
    (tmp_path / "sitecustomize.py").write_text(IMPORTING)
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    names = {"SIGNAL": name, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": path}
    ended = subprocess.run(
        [sys.executable, "-m", "prunekit", "run", whole.recipe, "--out", tmp_path / "runs"],
        env=os.environ | names,
        capture_output=True,
        text=True,
    )
    if name == "SIGINT":
        # click ends the line in which a terminal shows ^C
        assert (ended.returncode, ended.stderr) == (130, "\nInterrupted\n")
    else:
        assert ended.returncode == 75
        assert ended.stderr.startswith(f"Stopped by {name}: nothing half-written is left")
        assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_one_of_two_at_once_is_told_who_is_at_it(commands: Commands, whole: Undisturbed) -> None:
    """Another process holds the run: neither a resume nor a call with --continue waits."""
    from prunekit.foundation.locks import lock

    run = whole.folder / "held" / "tiny" / whole.run.name
    shutil.copytree(whole.run, run)
    (run / "status.json").write_text(json.dumps({"status": "running"}))
    with lock(run):
        for words in (
            ("resume", run),
            ("run", whole.recipe, "--out", run.parents[1], "--continue"),
        ):
            ended = commands(*words)
            assert ended.code == 8
            assert f"in use by process {os.getpid()} on" in ended.text
