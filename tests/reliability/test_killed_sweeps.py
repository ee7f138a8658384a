"""A sweep that is killed, or a process of it, at any file operation: its state stays honest."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from prunekit.sweep import open_sweep
from prunekit.train.going_on import status_of
from tests.reliability.undisturbed import Undisturbed, drawn, each, left_over, names, told_plainly
from tests.support.commands import Commands, Ended
from tests.support.training import result, same

KINDS: dict[str, dict[str, Any]] = {
    "command": {"what": "kill"},
    "orphan": {"what": "orphan", "worker": True},
    "worker": {"what": "kill", "worker": True},
}
"""Who is killed: the command in an operation of its own, the command while the process that runs
the cells is in an operation, or that process."""
STEP = re.compile(r"(.*/checkpoints)/step-([0-9]+)")
STAMP = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{8})(-\d+)?")


@dataclass(frozen=True)
class Swept:
    recipe: Path
    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    """Cell -> its result."""
    operations: dict[str, int]
    """Whose -> how many."""


def sweep(commands: Commands, recipe: Path, out: Path, *words: str, **how: Any) -> Ended:
    return commands("sweep", recipe, "seed=0,1", "--out", out, *words, below=out, **how)


@pytest.fixture(scope="module")
def swept(
    commands: Commands, whole: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> Swept:
    out = tmp_path_factory.mktemp("swept")
    ended = sweep(commands, whole.recipe, out)
    assert ended.code == 0, ended.text
    counts = {"command": len(ended.operations), "worker": len(ended.of_worker)}
    return Swept(whole.recipe, out, done(out), counts | {"orphan": counts["worker"]})


def done(out: Path) -> dict[str, dict[str, Tensor]]:
    """The results of the cells that are told to be done."""
    if not (out / "tiny" / "plan.json").is_file():
        return {}
    found = {}
    for cell in open_sweep(out / "tiny").cells:
        if cell.status == "done":
            assert cell.run is not None
            assert cell.run.status()["status"] == "done"
            found[cell.id] = result(cell.run.path)
        elif cell.status == "failed":
            assert "was ended by SIGKILL" in str(cell.error)
    return found


def shape(folder: Path) -> set[str]:
    """All that is in it, without times, and checkpoints by their order: a stop adds a step."""
    found = {STAMP.sub(r"\1", name) for name in names(folder)}
    steps: dict[str, list[int]] = {}
    for checkpoints, step in {match.groups() for name in found if (match := STEP.search(name))}:
        steps.setdefault(checkpoints, []).append(int(step))

    def nth(match: re.Match[str]) -> str:
        return f"{match[1]}/nth-{sorted(steps[match[1]]).index(int(match[2]))}"

    return {STEP.sub(nth, name) for name in found}


def written(out: Path) -> dict[str, int]:
    """When the result was, of each run that is done."""
    runs = [path for path in (out / "tiny" / "runs").glob("tiny/2*") if status_of(path) == "done"]
    return {f"{path}": (path / "report.json").stat().st_mtime_ns for path in runs}


def kill(commands: Commands, swept: Swept, out: Path, whom: str, at: int) -> None:
    ended = sweep(commands, swept.recipe, out, at=at, **KINDS[whom])
    if whom == "worker":  # the other cell was run all the same
        told_plainly(ended)
        assert ended.code in (0, 8), ended.text
    else:
        assert ended.code == -9, ended.text
    assert all(same(tensors, swept.tensors[cell]) for cell, tensors in done(out).items())


def goes_on(commands: Commands, swept: Swept, out: Path) -> None:
    """The same command brings it to its end, and makes nothing anew."""
    before = written(out)
    again = sweep(commands, swept.recipe, out, "--retry-failed")
    assert again.code == 0, again.text
    assert "2 runs done, 0 failed" in again.text
    found = done(out)
    assert found.keys() == swept.tensors.keys()
    assert all(same(tensors, swept.tensors[cell]) for cell, tensors in found.items())
    after = written(out)
    assert len(after) == 2
    assert {path: after.get(path) for path in before} == before
    assert not left_over(out)
    assert shape(out) == shape(swept.folder)
    assert not [*commands.temporary.glob("prunekit-*"), *commands.temporary.glob("torchelastic_*")]


def one_of_two(commands: Commands, swept: Swept, out: Path) -> None:
    """One is held where it runs a cell, a second is told of it, and the first is asked to stop."""
    held = commands.begin(
        "sweep", swept.recipe, "seed=0,1", "--out", out, below=out, at=1, what="hold",
        on="prunekit.sweep.runner:_Work.take",
    )  # fmt: skip
    held.until("held")
    second = sweep(commands, swept.recipe, out)
    told_plainly(second)
    assert second.code == 8
    assert f"in use by process {held.pid} on" in second.text
    held.signal("SIGTERM")
    stopped = held.end()
    told_plainly(stopped)
    assert stopped.code == 75, stopped.text


def test_a_sweep_that_is_killed_again_and_again_comes_to_its_end(
    commands: Commands, swept: Swept, tmp_path: Path
) -> None:
    """And is begun a second time while it is at work."""
    for whom in ("command", "orphan"):
        (at,) = drawn(swept.operations[whom] // 3, whom, 1)
        kill(commands, swept, tmp_path, whom, at)
    one_of_two(commands, swept, tmp_path)
    (at,) = drawn(swept.operations["worker"] // 3, "worker", 1)
    kill(commands, swept, tmp_path, "worker", at)
    goes_on(commands, swept, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(40_000)
@pytest.mark.parametrize("whom", KINDS)
def test_a_sweep_goes_on_after_each_operation(
    commands: Commands, swept: Swept, tmp_path: Path, whom: str
) -> None:
    for at in each(swept.operations[whom]):
        out = tmp_path / f"{at}"
        kill(commands, swept, out, whom, at)
        goes_on(commands, swept, out)
        shutil.rmtree(out)
