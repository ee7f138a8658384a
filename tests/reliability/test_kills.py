"""A process that is killed, or whose disk is full, at any file operation: nothing is lost or left.

A handful of operations, spread over the whole of each command, and all of them in soak.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.undisturbed import (
    Undisturbed,
    drawn,
    each,
    goes_on,
    names,
    run_dirs,
    told_plainly,
)
from tests.support.commands import Commands
from tests.support.training import curve, result, rewound, same

FULL = {0, 8}
"""It went on without what it cannot have, or said that the disk is full."""
GIVEN_UP = "metrics.jsonl: nothing more is logged there"
"""How a run says that it goes on without its log."""


def disturb(commands: Commands, whole: Undisturbed, at: int, what: str) -> None:
    out = whole.folder / f"{what}-{at}"
    first = commands("run", whole.recipe, "--out", out, below=out, at=at, what=what)
    if what == "kill":
        assert first.code == -9
    else:
        told_plainly(first)
        assert first.code in FULL, first.text
    goes_on(commands, whole, out, at, logged=GIVEN_UP not in first.text)
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
    for at in each(whole.operations):
        disturb(commands, whole, at, what)


@pytest.fixture(scope="module")
def of_continue(commands: Commands, whole: Undisturbed) -> int:
    """Operations of a run that `--continue` begins: it holds one more folder."""
    out = whole.folder / "continued"
    ended = commands("run", whole.recipe, "--out", out, "--continue", below=out)
    assert ended.code == 0, ended.text
    return len(ended.operations)


def disturb_continue(commands: Commands, whole: Undisturbed, at: int) -> None:
    out = whole.folder / f"continue-{at}"
    killed = commands("run", whole.recipe, "--out", out, "--continue", below=out, at=at)
    assert killed.code == -9
    goes_on(commands, whole, out, 0)
    shutil.rmtree(out)


def test_the_command_that_was_killed_goes_on_with_what_it_left(
    commands: Commands, whole: Undisturbed, of_continue: int
) -> None:
    """Also at the end, when the run is done and no command takes it again."""
    (within,) = drawn(of_continue, "continue", 1)
    for at in (within, *range(of_continue - 3, of_continue + 1)):
        disturb_continue(commands, whole, at)


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_the_same_command_goes_on_after_each_operation(
    commands: Commands, whole: Undisturbed, of_continue: int
) -> None:
    for at in each(of_continue):
        disturb_continue(commands, whole, at)


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


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A disk of so many bytes; False where this process may mount none."""
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    mounted = shutil.which("mount") and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_and_space_is_all_it_lacks(
    commands: Commands, whole: Undisturbed, tmp_path: Path
) -> None:
    """As `ENOSPC` above, from the system itself: also libraries in C++ meet it."""
    saved = whole.run / "checkpoints/step-0"
    page = os.sysconf("SC_PAGE_SIZE")
    room = sum(-(-file.stat().st_size // page) * page for file in saved.iterdir())
    out = tmp_path / "disk"
    with small_disk(out, room * 3 // 2 + 16 * page) as small:  # one checkpoint, and not a second
        limit = {} if small else {"largest": 5_000}
        ended = commands("run", whole.recipe, "--out", out, **limit)
        told_plainly(ended)
        assert ended.code == 8, ended.text
        assert "MB free" in ended.text
        assert not list(out.rglob("*.part"))
        if small:
            more = ["mount", "-o", "remount,size=64m", str(out)]
            subprocess.run(more, check=True)
        goes_on(commands, whole, out, 0)


@pytest.fixture(scope="module")
def operations(commands: Commands, whole: Undisturbed) -> int:
    """Of a run that goes on from its checkpoint of step 4."""
    out = whole.folder / "resumed"
    run = rewound(whole.run, 4, out / "tiny" / whole.run.name)
    ended = commands("resume", run, below=out)
    assert ended.code == 0, ended.text
    return len(ended.operations)


def disturb_resume(commands: Commands, whole: Undisturbed, at: int) -> None:
    out = whole.folder / f"resume-{at}"
    run = rewound(whole.run, 4, out / "tiny" / whole.run.name)
    assert commands("resume", run, below=out, at=at).code == -9
    goes_on(commands, whole, out, at)
    shutil.rmtree(out)


def test_a_run_that_is_killed_while_it_goes_on_goes_on_again(
    commands: Commands, whole: Undisturbed, operations: int
) -> None:
    for at in drawn(operations, "resume", 1):
        disturb_resume(commands, whole, at)


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_a_run_goes_on_again_after_each_operation(
    commands: Commands, whole: Undisturbed, operations: int
) -> None:
    for at in each(operations):
        disturb_resume(commands, whole, at)


SAME_EACH_TIME = (".csv", ".safetensors")
"""What a command writes with the same bytes each time; the rest tells times."""


@dataclass(frozen=True)
class Reader:
    """A command that reads runs, and what it wrote."""

    words: tuple[object, ...]
    out: Path
    operations: int

    def disturb(self, commands: Commands, at: int) -> None:
        """Nothing of it is left beside `out`, and the same command gives the same."""
        again = self.out.with_name(f"{self.out.name}-{at}")
        killed = commands(*self.words, "--out", again, below=again, at=at)
        assert killed.code == -9, killed.text
        assert commands(*self.words, "--out", again).code == 0
        assert contents(again) == contents(self.out)
        assert not list(again.parent.glob(f".{again.name}.*"))
        shutil.rmtree(again)


def contents(folder: Path) -> dict[str, object]:
    return {
        name: path.read_bytes() if path.suffix in SAME_EACH_TIME else path.stat().st_size > 0
        for name in names(folder)
        if (path := folder / name).is_file()
    }


@pytest.fixture(params=["report", "export"])
def reader(request: pytest.FixtureRequest, commands: Commands, whole: Undisturbed) -> Reader:
    words: tuple[object, ...] = ("report", whole.folder / "runs")
    if request.param == "export":
        words = ("export", whole.run, "--packed")
    out = whole.folder / request.node.name
    first = commands(*words, "--out", out, below=out)
    assert first.code == 0, first.text
    return Reader(words, out, len(first.operations))


def test_what_reads_a_run_leaves_nothing_when_it_is_killed(
    commands: Commands, whole: Undisturbed, reader: Reader
) -> None:
    before = names(whole.run)
    for at in drawn(reader.operations, "reader", 1):
        reader.disturb(commands, at)
    assert names(whole.run) == before


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_what_reads_a_run_leaves_nothing_after_each_operation(
    commands: Commands, reader: Reader
) -> None:
    for at in each(reader.operations):
        reader.disturb(commands, at)


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
