"""A run that nothing befell, and what must hold of one that something befell."""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.recipe.yaml_text import dump_yaml
from tests.reliability.test_damaged_runs import SMALL
from tests.support.commands import Commands, Ended
from tests.support.training import curve, recipe, result, same

RUN = SMALL | {"loggers": [{"name": "csv"}]}
AT_RANDOM = 3
"""Operations of a command that are drawn for the quick loop."""


@dataclass(frozen=True)
class Undisturbed:
    folder: Path
    recipe: Path
    run: Path
    tensors: dict[str, Tensor]
    operations: int


def undisturbed(commands: Commands, folder: Path) -> Undisturbed:
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


def each(count: int) -> Iterator[int]:
    """All operations of a command, or those that `SOAK_OPERATIONS` names, as `107-200` or `107-`.

    So that hours may be done in parts; `-s` tells what was done.
    """
    first, _, last = os.environ.get("SOAK_OPERATIONS", "1-").partition("-")
    numbers = range(1, count + 1)[int(first) - 1 : int(last) if last else None]
    assert numbers, f"there are only {count} operations"
    for at in numbers:
        yield at
        sys.stdout.write(f"operation {at} of {count} is done\n")
        sys.stdout.flush()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def left_over(folder: Path) -> list[Path]:
    return [*folder.rglob("*.part"), *folder.rglob(".lock.json"), *folder.rglob("torchelastic_*")]


def told_plainly(ended: Ended) -> None:
    assert "Traceback" not in ended.text, ended.text
    assert "Internal error" not in ended.text, ended.text


def goes_on(
    commands: Commands, whole: Undisturbed, out: Path, first: int, *, logged: bool = True
) -> None:
    """What a run left at an operation leads to the result of one that nothing befell.

    One that said that nothing more is `logged` has what it wrote before.
    """
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
    log = run / "metrics.jsonl"
    if log.exists():
        lines, undisturbed = curve(run), curve(whole.run)
        assert lines == undisturbed if logged else lines == undisturbed[: len(lines)]
    else:
        assert not logged
        with pytest.raises(CheckpointError, match="the run is done"):
            curve(run)
    # a log is given up on a full disk
    assert names(run) | {"metrics.csv", log.name} == names(whole.run)
    assert not left_over(out)
