"""A request to stop while a command writes files: nothing half-written is left, and it is told.

Each command is in one of the two lists below.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image

from prunekit.cli.app import cli
from tests.reliability.undisturbed import Undisturbed, told_plainly
from tests.support.commands import Commands

WRITERS = {
    "compact": ("{run}", "--out", "{out}"),
    "data pack": ("{images}", "--out", "{out}"),
    "evaluate": ("{run}", "--out", "{out}"),
    "export": ("{run}", "--packed", "--out", "{out}"),
    "init": ("quickstart", "-o", "{out}"),
    "picture": ("{run}", "density", "--out", "{out}"),
    "predict": ("{run}", "{image}", "--tokens", "{out}"),
    "report": ("{runs}", "--out", "{out}"),
    "sensitivity": ("{run}", "--out", "{out}", "--sparsities", "0.5", "--samples", "8"),
}
"""Each with words that make it write to `out`."""
OTHERS = {
    "bench": "measures, in a folder of temporary files",
    "cache clear": "deletes",
    "cache list": "shows",
    "check-nm": "shows",
    "data check": "shows",
    "data info": "shows",
    "doctor": "trains, in a folder of temporary files",
    "list": "shows",
    "resume": "trains: test_signals.py",
    "run": "trains: test_signals.py",
    "schema": "shows",
    "show": "shows",
    "sweep": "trains: test_signals.py",
    "validate": "shows",
}


def commands_of(group: click.Group, before: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_each_command_has_its_place() -> None:
    assert sorted(commands_of(cli)) == sorted((*WRITERS, *OTHERS))


def words_of(command: str, whole: Undisturbed, folder: Path) -> list[str]:
    image = folder / "image.png"
    Image.new("L", (8, 8), 128).save(image)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / "set" / split / name).mkdir(parents=True)
            Image.new("L", (8, 8), 128).save(folder / "set" / split / name / "0.png")
    given = {
        "run": whole.run, "runs": whole.folder / "runs", "image": image, "images": folder / "set",
        "out": folder / "outer" / "out",
    }  # fmt: skip
    (folder / "outer").mkdir()
    return [*command.split(), *(word.format(**given) for word in WRITERS[command])]


ASKED = [
    (command, name, twice)
    for command in WRITERS
    for name in ("SIGTERM", "SIGINT", "SIGHUP")
    for twice in (False, True)
]
QUICK = (
    ("data pack", "SIGTERM", False),
    ("export", "SIGTERM", False),
    ("export", "SIGINT", True),
    ("init", "SIGHUP", False),
)


@pytest.mark.parametrize(
    ("command", "name", "twice"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.soak) for one in ASKED],
)
def test_a_stopped_command_leaves_nothing_half_written(
    commands: Commands, whole: Undisturbed, tmp_path: Path, command: str, name: str, twice: bool
) -> None:
    words = words_of(command, whole, tmp_path)
    out = tmp_path / "outer"
    on = {"on": "prunekit.data.pack_writer:PackWriter.add"} if command == "data pack" else {}
    at = 1 if on else 2  # the part is there
    ended = commands(*words, below=out, at=at, what=name, at_once=twice, **on)
    told_plainly(ended)
    left = {path.name for path in out.rglob("*")}
    if twice and not on:
        assert ended.code == (130 if name == "SIGINT" else 75), ended.text
        told = "Interrupted" if name == "SIGINT" else f"Stopped by {name}: "
        assert ended.text.splitlines()[-1].startswith(told), ended.text
        assert not left
    else:
        assert ended.code == 75, ended.text
        assert ended.text.splitlines()[-1].startswith("Stopped "), ended.text
        assert not [path for path in out.rglob("*.part") if path.name != "out.part"]
        assert left in (set(), {"out"}) or on, left  # a single file is finished first
        assert not on or "out.part" in left
    assert not list(commands.temporary.glob("prunekit-*"))
    again = commands(*words, *(["--force"] if command == "init" and left else []))
    assert again.code == 0, again.text
    assert [path.name for path in out.iterdir()] == ["out"]


COMPUTING = {
    "evaluate": "prunekit.export.served:load_model",
    "report": "prunekit.report.document:open_study",
    "compact": "prunekit.export.compacting:compact",
}


@pytest.mark.parametrize(
    "command", ["evaluate", *(pytest.param(c, marks=pytest.mark.soak) for c in COMPUTING)]
)
def test_a_command_that_only_computes_is_ended_with_a_line(
    commands: Commands, whole: Undisturbed, tmp_path: Path, command: str
) -> None:
    words = words_of(command, whole, tmp_path)
    ended = commands(*words, below=tmp_path, at=1, what="SIGTERM", on=COMPUTING[command])
    assert ended.code == 75, ended.text
    assert ended.text.startswith("Stopped by SIGTERM: nothing half-written is left"), ended.text
    assert not list((tmp_path / "outer").iterdir())


STEPS = {
    "tracing": "prunekit.export.exporting:trace",
    "translating": "prunekit.export.exporting:write_onnx",
    "checking": "prunekit.export.parity:_stoppable",
    "timing": "prunekit.export.latency:time_passes",
}


@pytest.mark.soak
@pytest.mark.parametrize("where", STEPS)
def test_an_export_is_given_up_between_its_steps(
    commands: Commands, whole: Undisturbed, tmp_path: Path, where: str
) -> None:
    words = ("export", whole.run, "--onnx", "--pt2", "--out", tmp_path / "out")
    ended = commands(*words, below=tmp_path, at=1, what="SIGTERM", on=STEPS[where])
    told_plainly(ended)
    assert ended.code == 75, ended.text
    assert not list(tmp_path.iterdir())
    assert not list(commands.temporary.glob("prunekit-*"))
