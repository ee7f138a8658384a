"""A run directory that is damaged or made to do harm: one line, and no other run is lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunekit.cli.app import main
from tests.reliability.damage import ways
from tests.support.training import MAGNITUDE, run

FILES = (
    ".lock",
    "manifest.json",
    "masks.safetensors",
    "merged.npz",
    "metrics.jsonl",
    "model.safetensors",
    "recipe.yaml",
    "report.json",
    "resolved.yaml",
    "status.json",
    "checkpoints/step-0/sha256.json",
    "checkpoints/step-0/state.pt",
    "checkpoints/step-0/weights.safetensors",
    "checkpoints/step-4/sha256.json",
    "checkpoints/step-4/state.pt",
    "checkpoints/step-4/weights.safetensors",
)
"""Every file that a finished run has."""
COMMANDS = (
    ("report", "{runs}"),
    ("evaluate", "{run}", "--out", "{out}"),
    ("export", "{run}", "--packed", "--out", "{out}"),
    ("picture", "{run}", "density", "--out", "{out}/x.png"),
    ("check-nm", "{run}"),
    ("resume", "{stopped}"),
    ("run", "{recipe}", "strategies.0.source={run}"),
    ("run", "{recipe}", "model.init={run}"),
)
CODES = {0, 2, 3, 4, 5, 7, 8}
"""Neither a bug nor a traceback: done, or told what is wrong."""
VIT = {"name": "vit", "patch_size": 4, "depth": 1, "embed_dim": 8, "heads": 1}
SMALL: dict[str, Any] = {
    "model": VIT,
    "compressors": [{"name": "tome", "slot": "tokens", "ratio": 0.25}],
    "phases": [{"name": "train", "length": "8st"}],
    "checkpoint": {"every": "4st"},
    "logging": {"every": "2st"},
    "evaluate": {"every": "4st"},
    "strategies": [MAGNITUDE | {"mode": "ste"}],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("sound"), **SMALL)


@pytest.fixture
def sound(finished: Path, tmp_path: Path) -> Path:
    """A folder of two equal runs, which each test may damage."""
    for name in ("one", "two"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_the_list_has_every_file_of_a_run(finished: Path) -> None:
    there = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    files = {name for name in there if (finished / name).is_file()}
    last = {name.replace("step-8", "step-4") for name in files}
    assert last == set(FILES)


def code_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([*words])
    told = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 1), told.out + told.err


CASES = [(name, way) for name in FILES for way in ways(Path(name))]


def cases(share: int) -> list[Any]:
    """(file, what becomes of it, command), one of `share` pairs with one command; all in soak."""
    quick = [(*case, COMMANDS[i % len(COMMANDS)]) for i, case in enumerate(CASES[::share])]
    assert len({file for file, _, _ in quick}) == len(FILES)  # and each way and each command:
    assert len({way for _, way, _ in quick}) == len({way for _, way in CASES})
    assert len({command for _, _, command in quick}) == len(COMMANDS)
    rest = [(*case, c) for case in CASES for c in COMMANDS if (*case, c) not in quick]
    return [*quick, *(pytest.param(*case, marks=pytest.mark.soak) for case in rest)]


def label(value: object) -> str:
    if isinstance(value, tuple):
        return str(value[0])
    return getattr(value, "__name__", str(value))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "way", "command"), cases(6), ids=label)
def test_a_damaged_run_ends_in_a_line(
    name: str,
    way: Callable[[Path, random.Random], None],
    command: tuple[str, ...],
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = sound / "one"
    if command[0] == "resume":
        stop(one)
    if not (one / name).is_file():
        pytest.fail(f"{name} is not there")
    way(one / name, random.Random(f"{name} {label(way)} {command}"))
    places = {"runs": sound, "run": one, "stopped": one, "out": tmp_path / "out", "recipe": ""}
    if "{recipe}" in command:
        places["recipe"] = written(tmp_path, command)
    words = [word.format(**places) for word in command]
    if command[0] == "run":
        words += ["--out", str(tmp_path / "new")]
    code, text = code_of(capsys, *words)
    assert code in CODES, text
    assert "Traceback" not in text
    assert "Internal error" not in text
    assert not set(text) & {"\x1b", "\u202e"}
    if command[0] == "report":  # the other run is told all the same
        assert code == 0
        assert "finished run" in text


def stop(run_dir: Path) -> None:
    """Leave a run as a kill after step 4 would."""
    shutil.rmtree(run_dir / "checkpoints" / "step-8")


def written(folder: Path, command: tuple[str, ...]) -> Path:
    from prunekit.recipe.yaml_text import dump_yaml
    from tests.support.training import recipe

    changes = dict(SMALL)
    if "strategies.0.source={run}" in command:
        changes["strategies"] = [{"name": "optimal_subnetwork", "source": str(folder / "runs/two")}]
    path = folder / "new.yaml"
    path.write_text(dump_yaml(recipe(**changes)), encoding="utf-8")
    return path
