"""A process that is killed, or whose disk is full, at any file operation: nothing is lost or left.

A handful of operations, spread over the whole of each command, and all of them in soak.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from prunekit.recipe.yaml_text import dump_yaml
from tests.reliability.faults import Commands, Ended
from tests.reliability.test_damaged_runs import SMALL
from tests.support.training import curve, recipe, result, same

RUN = SMALL | {"loggers": [{"name": "csv"}]}
AT_RANDOM = 3
"""Operations of a command that are drawn for the quick loop."""
FULL = {0, 8}
"""It went on without what it cannot have, or said that the disk is full."""


@dataclass(frozen=True)
class Undisturbed:
    folder: Path
    recipe: Path
    run: Path
    tensors: dict[str, Tensor]
    operations: int


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="module")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    written = folder / "tiny.yaml"
    written.write_text(dump_yaml(recipe(**RUN)), encoding="utf-8")
    ended = commands("run", written, "--out", folder / "runs", below=folder / "runs")
    assert ended.code == 0, ended.text
    (run,) = run_dirs(folder / "runs")
    return Undisturbed(folder, written, run, result(run), len(ended.operations))


def run_dirs(out: Path) -> list[Path]:
    return sorted((out / "tiny").glob("2*T*Z-*"))


def drawn(count: int, seed: str, share: int = AT_RANDOM) -> list[int]:
    """One operation of each of `share` stretches of a command."""
    draw, edge = random.Random(seed), [count * i // share for i in range(share + 1)]
    return [draw.randint(low + 1, high) for low, high in itertools.pairwise(edge)]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def left_over(folder: Path) -> list[Path]:
    return [*folder.rglob("*.part"), *folder.rglob(".lock.json"), *folder.rglob("torchelastic_*")]


def told_plainly(ended: Ended) -> None:
    assert "Traceback" not in ended.text, ended.text
    assert "Internal error" not in ended.text, ended.text


def goes_on(commands: Commands, whole: Undisturbed, out: Path, first: int) -> None:
    """What a run left at an operation leads to the result of one that nothing befell."""
    for run in run_dirs(out) if first % 2 else ():
        resumed = commands("resume", run)
        told_plainly(resumed)
        saved = any((run / "checkpoints").glob("step-*"))
        assert resumed.code == (0 if saved else 5) or "the run is complete" in resumed.text
        assert saved or "before its first checkpoint" in resumed.text
    again = commands("run", whole.recipe, "--out", out, "--continue")
    assert again.code == 0, again.text
    (run,) = run_dirs(out)
    assert same(result(run), whole.tensors)
    assert curve(run) == curve(whole.run)
    assert names(run) | {"metrics.csv"} == names(whole.run)  # a logger is given up on a full disk
    assert not left_over(out)


def disturb(commands: Commands, whole: Undisturbed, at: int, what: str) -> None:
    out = whole.folder / f"{what}-{at}"
    first = commands("run", whole.recipe, "--out", out, below=out, at=at, what=what)
    if what == "kill":
        assert first.code == -9
    else:
        told_plainly(first)
        assert first.code in FULL, first.text
    goes_on(commands, whole, out, at)
    shutil.rmtree(out)


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(
    commands: Commands, whole: Undisturbed
) -> None:
    for at in drawn(whole.operations, "kill"):
        disturb(commands, whole, at, "kill")


@pytest.mark.soak
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("what", ["kill", "ENOSPC", "EROFS"])
def test_a_run_goes_on_after_each_operation(
    commands: Commands, whole: Undisturbed, what: str
) -> None:
    for at in range(1, whole.operations + 1):
        disturb(commands, whole, at, what)


def test_an_evaluation_stands_once(commands: Commands, whole: Undisturbed) -> None:
    """Also where the kill came between the last evaluation and the report."""
    out = whole.folder / "once"
    on = "prunekit.train.finish:write_json"
    killed = commands("run", whole.recipe, "--out", out, below=out, at=1, on=on)
    assert killed.code == -9
    (run,) = run_dirs(out)
    assert curve(run) == curve(whole.run)  # it was logged
    assert commands("resume", run).code == 0
    assert curve(run) == curve(whole.run)


def test_a_run_on_a_full_disk_says_so_and_goes_on(commands: Commands, whole: Undisturbed) -> None:
    for at in drawn(whole.operations, "full", 1):
        disturb(commands, whole, at, "ENOSPC")


def test_a_file_may_not_grow(commands: Commands, whole: Undisturbed) -> None:
    """As on a full disk: what is written by libraries fails in the middle of a file."""
    out = whole.folder / "small"
    size = (whole.run / "checkpoints/step-8/weights.safetensors").stat().st_size
    ended = commands("run", whole.recipe, "--out", out, largest=size // 2)
    told_plainly(ended)
    assert ended.code == 8, ended.text
    assert "there is no earlier one" in ended.text
    goes_on(commands, whole, out, 1)


@pytest.mark.parametrize("kind", ["report", "export"])
def test_what_reads_a_run_leaves_nothing_when_it_is_killed(
    commands: Commands, whole: Undisturbed, kind: str
) -> None:
    words = {
        "report": ("report", whole.folder / "runs"),
        "export": ("export", whole.run, "--packed"),
    }[kind]
    out = whole.folder / kind
    first = commands(*words, "--out", out, below=out)
    assert first.code == 0, first.text
    wanted = {name: (out / name).stat().st_size > 0 for name in names(out)}
    before = names(whole.run)
    for at in drawn(len(first.operations), kind, 1):
        again = whole.folder / f"{kind}-{at}"
        assert commands(*words, "--out", again, below=again, at=at).code == -9
        assert commands(*words, "--out", again).code == 0
        assert {name: (again / name).stat().st_size > 0 for name in names(again)} == wanted
        beside = f".{again.name}.*"
        assert not list(again.parent.glob(beside))
    assert names(whole.run) == before


@pytest.mark.soak
def test_a_clock_that_goes_back_changes_nothing(commands: Commands, whole: Undisturbed) -> None:
    out = whole.folder / "clock"
    words = ("run", whole.recipe, "--out", out)
    ended = commands(*words, below=out, at=40, what="nothing", clock=86_400)
    told_plainly(ended)
    assert ended.code == 0
    (run,) = run_dirs(out)
    assert same(result(run), whole.tensors)
    assert json.loads((run / "report.json").read_text())["train"]["wall_seconds"] > 0


def test_a_folder_that_vanishes_is_one_line(commands: Commands, whole: Undisturbed) -> None:
    out = whole.folder / "gone"
    ended = commands("run", whole.recipe, "--out", out, below=out, at=60, what="vanish")
    told_plainly(ended)
    assert ended.code == 8, ended.text
    goes_on(commands, whole, out, 1)


STOPS = {
    "before the first step": "prunekit.train.trainer:Trainer.fit",
    "in a step": "prunekit.train.passes:Passes.gradients",
    "evaluating": "prunekit.train.passes:Passes.evaluate",
    "saving": "prunekit.train.trainer:save_checkpoint",
}


STATES = [(w, n) for w in STOPS for n in ("SIGTERM", "SIGINT", "SIGHUP")]


@pytest.mark.parametrize(
    ("where", "name", "twice"),
    [
        ("evaluating", "SIGTERM", 0),
        ("in a step", "SIGINT", 1.1),
        *(pytest.param(where, name, 0, marks=pytest.mark.soak) for where, name in STATES),
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
    assert ended.code == (130 if twice else 75), ended.text
    goes_on(commands, whole, out, 1)


def test_one_of_two_at_once_is_told_who_is_at_it(commands: Commands, whole: Undisturbed) -> None:
    """Another process holds the run: neither a resume nor a call with --continue waits."""
    from prunekit.foundation.files import lock

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
