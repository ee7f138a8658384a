"""What a command does before its work: what it imports, and that it leaves the collector on."""

import ast
import gc
import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prunekit.cli.app import COMMANDS, cli
from prunekit.cli.common import Options, starting
from prunekit.registry import REGISTRIES, source


def imported(*words):
    """What of the slow packages a command imports in an interpreter of its own."""
    slow = ["torch", "numpy", "pydantic", "ruamel", "rich", "importlib.metadata"]
    code = (
        "import sys\nfrom prunekit.cli.app import cli\n"
        f"cli.main({list(words)!r}, standalone_mode=False)\n"
        f"print('imported', *[m for m in {slow!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(("words", "needed"), [
    (["--help"], []),
    (["list"], ["rich", "importlib.metadata"]),
    (["list", "strategies", "--json"], ["importlib.metadata"]),
])  # fmt: skip
def test_a_command_imports_only_what_it_needs(words, needed):
    assert imported(*words) == needed


def test_each_command_has_its_line_in_the_list_of_them():
    text = CliRunner().invoke(cli, ["--help"], obj=Options()).stdout
    group, ctx = cli, click.Context(cli)
    shown = text[text.index("Commands:") : text.index("Examples:")]
    for name, line in COMMANDS.items():
        module = importlib.import_module(f"prunekit.cli.{name.replace('-', '_')}")
        assert module.command.name == name
        assert group.get_command(ctx, name).get_short_help_str() == line
        assert line.split()[0] in shown
        assert line.endswith(".")


def test_garbage_is_collected_again_after_the_start():
    def body():
        with starting():
            raise ValueError(gc.isenabled())

    with pytest.raises(ValueError, match="False"):
        body()
    assert gc.isenabled()


def test_only_a_process_of_its_own_never_looks_at_its_objects_again():
    before = gc.get_freeze_count()
    for alone, frozen in ((False, False), (True, True)):
        with click.Context(cli, obj=Options(alone=alone)), starting():
            pass
        assert (gc.get_freeze_count() > before) is frozen
        gc.unfreeze()


BUILTIN = sorted({c.value for r in REGISTRIES.values() for c in r.components() if c.builtin})


@pytest.mark.parametrize("value", BUILTIN)
def test_a_class_read_alone_says_what_its_whole_file_says(value, monkeypatch):
    alone = source.describe_source(value)
    monkeypatch.setattr(source, "_head_alone", lambda text, name: None)
    assert alone == source.describe_source(value)
    assert alone.summary


TRICKY = '''
"""A module whose docstring shows
class Other(Base): as an example.
"""
class Early: "first"
class Found(
    Early,
):
    """What it is.

Text at the margin.
    def of_a_docstring(self): no method
    """
    name = "x"

    def method(self):
        return 1

    paper = "arXiv:1234.56789"

class Foundling(Early):
    """Another."""
'''


@pytest.mark.parametrize("name", ["Early", "Found", "Foundling", "Other"])
def test_a_head_that_cannot_be_read_alone_is_read_with_its_file(name, tmp_path, monkeypatch):
    Path(tmp_path, "tricky_source.py").write_text(TRICKY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = source.describe_source(f"tricky_source:{name}")
    node = next((n for n in ast.parse(TRICKY).body if getattr(n, "name", "") == name), None)
    docstring = (ast.get_docstring(node) or "") if node else ""
    assert found.summary == docstring.partition("\n")[0]
    assert found.paper == ("arXiv:1234.56789" if name == "Found" else "")
