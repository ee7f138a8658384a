"""`prunekit init --plugin`: what it writes works, and what it cannot write leaves nothing."""

import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from prunekit.cli import main
from prunekit.cli.scaffold import kinds_with_templates, plugin_named, rendered
from prunekit.errors import UsageError
from prunekit.registry import REGISTRIES

KINDS = kinds_with_templates()


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def installed(plugin_env, tmp_path_factory):
    """One of each kind, written, built and installed as wheels."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        out = plugin_env.run(f"prunekit init --plugin prunekit-x-{kind} --kind {kind}", folder)
        assert len(out.splitlines()) == 4
    plugin_env.run("pip wheel -q --no-deps -w dist ./prunekit-x-*", folder)
    plugin_env.run("pip install -q --no-compile dist/*.whl", folder)
    return folder


def recipe_of(kind: str) -> str:
    return f"x_{kind}_{'mlp' if kind == 'dataset' else 'digits'}"


def test_there_are_templates_for_every_kind():
    assert {*KINDS} == {*REGISTRIES}


@pytest.mark.slow
def test_all_are_listed_with_their_origin(installed, plugin_env):
    out = plugin_env.run("prunekit list && prunekit init && prunekit show x_strategy", installed)
    for kind in KINDS:
        assert f"  x_{kind}  prunekit-x-{kind} 0.1.0" in out
        assert re.search(rf"{recipe_of(kind)} +\[prunekit-x-{kind} 0.1.0\] x_{kind} ", out)
    assert "power: 1.0" in out


@pytest.mark.slow
def test_their_own_tests_pass(installed, plugin_env):
    """In one session: most of the time of one with a single kind is the import of torch."""
    out = plugin_env.run("pytest -v --import-mode=importlib --rootdir . ./prunekit-x-*", installed)
    passed = re.findall(r"^prunekit-x-(\w+)/\S+ PASSED", out, re.M)
    assert Counter(passed) == dict.fromkeys(KINDS, 3)


@pytest.mark.slow
def test_a_command_of_the_environment_ends_with_its_own_code(plugin_env, tmp_path):
    out = plugin_env.run("prunekit run nowhere.yaml || echo code $? >&2", tmp_path)
    assert re.fullmatch(r"Error: nowhere.yaml: .*\ncode 2\n", out)
    assert "not found" in plugin_env.run("pytest nowhere", tmp_path, fails=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strategy", "compressor", "dataset"])
def test_its_recipe_runs_by_name(installed, plugin_env, kind, tmp_path):
    name = recipe_of(kind)
    out = plugin_env.run(f"prunekit run {name} phases.0.length=2ep", tmp_path)
    assert "test accuracy" in out
    assert (tmp_path / "runs" / name / "latest" / "report.json").is_file()


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not installed")
def test_it_is_tidy(call, tmp_path):
    for kind in KINDS:
        call("init", "--plugin", f"prunekit-x-{kind}", "--kind", kind)
    for command in (["check", "-q"], ["format", "-q", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, tmp_path], check=True)


def test_it_says_what_to_do_next(call):
    code, out, _ = call("init", "--plugin", "prunekit-x")
    assert code == 0
    assert out.splitlines()[1:] == [
        "  pip install -e './prunekit-x[test]'",
        "  pytest ./prunekit-x",
        "  prunekit run x_digits",
    ]
    assert os.listdir() == ["prunekit-x"]
    code, out, _ = call("init", "--plugin", "My.Rule", "--kind", "compressor", "a folder")
    assert "  pytest './a folder'" in out
    assert Path("a folder/my_rule/compressor.py").is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no package name"),
        ("a b", "no package name"),
        ("../up", "no package name"),
        ("-x", "no package name"),
        ("größe", "no package name"),
        ("2x", "'2x' is no name"),
        ("prunekit-class", "'class' is no name"),
        ("prunekit-null", "'null' is no name"),
        ("prunekit", "module 'prunekit' is installed"),
        ("json", "module 'json' is installed"),
        ("prunekit-magnitude", "strategy 'magnitude' of prunekit"),
        ("prunekit-tome-blocks", "a recipe tome_blocks_digits already"),
        ("prunekit-context", "its class Context would hide"),
        ("prunekit-pruner", "its class Pruner would hide"),
        ("prunekit-field", "its class Field would hide"),
    ],
)
def test_a_bad_or_taken_name_is_one_line(call, name, reason):
    code, out, err = call("init", "--plugin", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert reason in err
    assert os.listdir() == []


def test_what_cannot_be_written_leaves_nothing(call):
    Path("prunekit-x").mkdir()
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    for target in ([], ["file"], ["link"], ["."]):
        code, _, err = call("init", "--plugin", "prunekit-x", *target)
        assert code == 2
        assert "exists: name another folder" in err
    for target in ("none/x", "file/x"):
        code, _, err = call("init", "--plugin", "prunekit-x", target)
        if target == "file/x":
            assert code == 8
            assert "cannot be written" in err
    assert sorted(os.listdir()) == ["file", "link", "none", "prunekit-x"]


@pytest.mark.parametrize(
    "args", [["--kind", "strategy"], ["--plugin", "x", "--force"], ["--plugin", "x", "-o", "f"]]
)
def test_options_that_do_not_go_together(call, args):
    assert call("init", *args)[0] == 2
    assert os.listdir() == []


@given(st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True))
def test_a_name_is_refused_or_gives_names_that_python_takes(name):
    try:
        plugin = plugin_named(f"prunekit-{name}", "strategy")
    except UsageError:
        return
    assert plugin.package.isidentifier()
    assert plugin.class_name.isidentifier()
    for path, text in rendered(plugin).items():
        assert not path.is_absolute()
        if path.suffix == ".py":
            compile(text, path, "exec")


def test_no_placeholder_is_left():
    for kind in KINDS:
        plugin = plugin_named("prunekit-x", kind)
        for path, text in rendered(plugin).items():
            assert not re.search(r"PACKAGE|COMPONENT|tmpl", str(path))
            assert "$" not in text
