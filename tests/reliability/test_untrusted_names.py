"""A name from anywhere: no character that a terminal obeys, or that turns text, gets out."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from PIL import Image

import prunekit
from prunekit.cli.app import main
from prunekit.foundation.text import escaped, printable
from tests.support.made_runs import magnitude, make_run, report

BAD = "\x1b\x07\x7f\x9b\u200b\u200d\u202e\u2066\u2069\u2028\ufeff"
NAME = "a" + "m".join(BAD) + "z"
PACKAGE = Path(prunekit.__file__).parent
EVERY = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
UNSEEN = {"\n", "\t"}
"""What stays of controls: lines and columns."""


def told_badly(text: str) -> set[str]:
    return {char for char in text if not char.isprintable()} - UNSEEN


def test_no_character_that_acts_is_printable() -> None:
    import unicodedata

    acting = [c for c in EVERY if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(BAD) <= set(acting)
    for char in {*acting} - UNSEEN:
        assert printable(char) == ascii(char)[1:-1]
        assert not told_badly(escaped(char))
    assert printable("\udce9") == "\\udce9"  # a byte of a name that is no UTF-8
    assert printable("Größe 日本 é\tx\n") == "Größe 日本 é\tx\n"


def calls(tree: ast.AST) -> list[tuple[str, int]]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (node for node in found if isinstance(node.func, ast.Name | ast.Attribute))
    return [(ast.unparse(node.func), node.lineno) for node in named]


PRINTS = {
    "click.echo": {"cli/common.py"},
    "click.secho": set(),
    "Console": {"foundation/console.py"},
    "rich.print": set(),
    "traceback.print_exc": set(),
    "tracebacks.print_exception": set(),
    "sys.stdout.write": set(),
    "sys.stderr.write": {"cli/import_check.py", "sweep/cell.py", "train/processes.py"},
    "print": {"bench/memory.py"},
}
"""What prints, and the files that may call it: all others go by `say` and `console`."""


def test_everything_is_printed_in_two_places() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        text = path.read_text("utf-8")
        if not any(f"{call}(" in text for call in PRINTS):
            continue
        for call, line in calls(ast.parse(text)):
            assert name in PRINTS.get(call, {name}), f"{name}:{line}: {call}"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a name, and with files that hold it, for every command that tells names."""
    here = tmp_path / NAME
    here.mkdir()
    for seed in (0, 1):
        result = report(0.9, 0.5) | {"warnings": [NAME], "layers": None}
        lines = [{"step": i, "train/loss": 1.0, NAME: 2.0} for i in range(3)]
        make_run(
            here / "runs" / f"{NAME}{seed}",
            seed=seed,
            strategies=magnitude(0.5),
            result=result if not seed else None,
            lines=lines,
            status={"status": "done"} if not seed else {"status": "failed", "message": NAME},
        )
    for split in ("train", "test"):
        for name in (NAME, "other"):
            folder = here / "images" / split / name
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), 99).save(folder / f"{NAME}.png")
            (folder / f"{NAME}.{NAME}").touch()
    (here / "broken.yaml").write_text(f'name: x\n"{ascii(NAME)[1:-1]}": 1\n', encoding="utf-8")
    (here / "sweep.yaml").write_text(
        f'name: small\nrecipe: quickstart\naxes: {{"{ascii(NAME)[1:-1]}": {{one: {{}}}}}}\n'
    )
    (here / "own.py").write_text(
        "from prunekit.models import Model\n"
        f"class Net(Model):\n    '''A {NAME}.'''\n"
        "    class Config(Model.Config):\n        name: str = 'net'\n",
        encoding="utf-8",
    )
    (here / "cache").mkdir()
    (here / "cache" / f"samples-{NAME}.safetensors").write_bytes(b"x")
    monkeypatch.setenv("PRUNEKIT_CACHE", str(here / "cache"))
    monkeypatch.chdir(here)
    return here


COMMANDS = {
    "report": ("report", "{here}/runs", "--out", "{here}/out", "--curve", "train/loss"),
    "report --curve": ("report", "{here}/runs", "--curve", NAME),
    "report of nothing": ("report", "{here}/cache"),
    "report --json": ("report", "{here}/runs", "--json"),
    "validate": ("validate", "{here}/broken.yaml"),
    "validate of nothing": ("validate", f"{NAME}.yaml"),
    "validate --traceback": ("validate", f"{NAME}.yaml", "--traceback"),
    "an override": ("validate", "quickstart", f"{NAME}=1"),
    "a value": ("validate", "quickstart", f"model.name={NAME}"),
    "list": ("list", "models", "--code", "{here}/own.py"),
    "a command": (NAME,),
    "an option": ("report", f"--{NAME}"),
    "init": ("init", NAME),
    "show": ("show", NAME),
    "sweep": ("sweep", "{here}/sweep.yaml", "--dry-run", "--out", f"{{here}}/{NAME}"),
    "data info": ("data", "info", "{here}/images"),
    "data check": ("data", "check", "{here}/images"),
    "data pack": ("data", "pack", "{here}/images", f"{{here}}/{NAME}p"),
    "cache": ("cache", "list"),
    "evaluate": ("evaluate", f"{{here}}/runs/{NAME}1"),
    "resume": ("resume", f"{{here}}/runs/{NAME}0"),
    "run": (
        "run", "quickstart", "data.name=image_folder", "data.root={here}/images",
        "compressors=[]", "--out", "{here}/new",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.skipif(sys.platform == "win32", reason="no such name can be made there")
def test_a_name_reaches_no_terminal_and_no_file_as_it_is(
    command: str, names: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("{here}", str(names)) for word in COMMANDS[command]]
    with pytest.raises(SystemExit):
        main(words)
    told = capsys.readouterr()
    assert told.out + told.err
    assert "Internal error" not in told.err
    assert not told_badly(told.out + told.err)
    for file in (names / "out").glob("*"):
        if file.suffix in (".csv", ".html", ".md", ".svg"):
            text = file.read_text("utf-8")
            assert not told_badly(text), file.name
    if command == "report":
        assert "\\x1b" in (names / "out" / "runs.csv").read_text("utf-8")
