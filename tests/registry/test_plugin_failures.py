"""A plugin that fails is shown with its name and reason, and stops nothing but its own use."""

import json
import sys
import textwrap

import pytest

from prunekit.cli import import_check, main
from prunekit.cli.list import recipe_entries
from prunekit.errors import PluginError, RecipeError
from prunekit.recipe.find import shipped_recipes
from prunekit.registry.installed import installed_components

PROBE = """
    from typing import Literal
    from prunekit import Probe, ProbeConfig

    class Mine(Probe):
        '''Watch.'''

        class Config(ProbeConfig):
            name: Literal["NAME"]

        def due(self, clock):
            return True

        def observe(self, ctx):
            return {"steps": clock.step}
"""
NO_CONFIG = PROBE.replace("class Config", "class Settings")
ODD_CONFIG = PROBE.replace("Config(ProbeConfig)", "Config")
UNUSED = "class Mine: pass"

BROKEN = {
    "raises": ("raise RuntimeError('boom')", "RuntimeError: boom"),
    "leaves": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "syntax": ("def broken(:", "SyntaxError: invalid syntax (plug_syntax.py, line 1)"),
    "needs": ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
    "empty": ("", "AttributeError: module 'plug_empty' has no attribute 'Mine'"),
    "no_probe": (UNUSED, "plug_no_probe:Mine is no Probe"),
    "abstract": ("from prunekit import Probe as Mine", "Probe does not define due, observe"),
    "no_config": (NO_CONFIG, "its Config is no ProbeConfig"),
    "odd_config": (ODD_CONFIG, "its Config is no ProbeConfig"),
    "misnamed": (PROBE.replace("NAME", "other"), "its config allows only the name 'other'"),
}


@pytest.fixture
def install(tmp_path):
    """Write a distribution with a probe into the one folder of this test."""

    def add(distribution, name, source):
        module = distribution.replace("-", "_")
        info = tmp_path / f"{module}-0.3.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.3\n"
        (info / "METADATA").write_text(metadata)
        points = f"[prunekit.probes]\n{name} = {module}:Mine\n"
        (info / "entry_points.txt").write_text(points)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))

    return add


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def run(*args):
        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


@pytest.fixture
def in_this_process(monkeypatch):
    """Components are tried here: a process for each would cost seconds."""

    def reason_to_fail(kind, *names):
        try:
            for name in names:
                import_check.load_component(kind, name)
        except PluginError as error:
            return str(error)

    monkeypatch.setattr(import_check, "reason_to_fail", reason_to_fail)


def checked(call, *args):
    code, out, _ = call("list", "probes", "--check", "--json", *args)
    found = {e["name"]: e for e in json.loads(out)["components"]}
    assert code == (7 if any(not e["check"]["ok"] for e in found.values()) else 0)
    return found


def test_each_failure_has_its_distribution_and_reason_and_the_others_work(
    install, call, in_this_process
):
    for name, (source, _) in BROKEN.items():
        install(f"plug-{name}", name, source)
    install("plug-fine", "fine", PROBE.replace("NAME", "fine"))
    found = checked(call)
    for name, (_, reason) in BROKEN.items():
        assert found[name]["distribution"] == f"plug-{name}"
        assert not found[name]["check"]["ok"]
        assert found[name]["check"]["reason"].startswith(reason)
    assert found["fine"]["check"] == found["gradient_norm"]["check"] == {"ok": True, "reason": None}


@pytest.mark.slow
def test_the_reason_comes_back_from_the_process_apart(install, call):
    install("plug-misnamed", "misnamed", BROKEN["misnamed"][0])
    assert import_check.reason_to_fail("probes", "misnamed") == BROKEN["misnamed"][1]


def test_components_of_prunekit_share_a_process_until_one_of_them_fails(monkeypatch):
    entries = [{"kind": "probes", "name": name, "builtin": True} for name in ("burden", "bad")]
    entries.append({"kind": "probes", "name": "plug", "builtin": False})
    calls = []

    def reason_to_fail(kind, *names):
        calls.append(names)
        return "boom" if "bad" in names else None

    monkeypatch.setattr(import_check, "reason_to_fail", reason_to_fail)
    monkeypatch.setattr(import_check, "refused_claim", lambda kind, name: None)
    import_check.check_entries(entries)
    assert sorted(calls) == [("bad",), ("burden",), ("burden", "bad"), ("plug",)]
    assert [entry["check"]["reason"] for entry in entries] == [None, "boom", None]


def test_a_taken_name_fails_for_each_that_does_not_own_it(install, call, in_this_process):
    install("plug-thief", "gradient_norm", PROBE.replace("NAME", "gradient_norm"))
    for which in "ab":
        install(f"plug-{which}", "same", PROBE.replace("NAME", "same"))
    found = checked(call)
    assert found["gradient_norm"]["check"]["ok"]
    failed = {name: e["check"]["reason"] for name, e in found.items() if not e["check"]["ok"]}
    assert failed.keys() == {"plug-thief:gradient_norm", "plug-a:same", "plug-b:same"}
    assert failed["plug-thief:gradient_norm"].startswith(
        "its name 'gradient_norm' is that of prune"
    )
    assert failed["plug-a:same"] == (
        "its name 'same' is that of plug-b 0.3 too: a recipe must write 'plug-a:same'"
    )


def test_for_a_person_the_failed_are_named_and_the_exit_code_is_7(install, call, in_this_process):
    install("plug-fine", "fine", PROBE.replace("NAME", "fine"))
    code, out, _ = call("list", "probes", "--check")
    assert code == 0
    assert "0 failed" in out
    install("plug-bad", "bad", "raise RuntimeError('boom')")
    installed_components.cache_clear()
    code, out, _ = call("list", "probes", "--check")
    assert code == 7
    assert "bad  plug-bad 0.3  FAILED" in out
    assert "probe bad (plug-bad 0.3): RuntimeError: boom" in out
    assert call("list", "probes")[0] == 0


@pytest.mark.parametrize("name", BROKEN)
def test_only_using_it_is_an_error_of_one_line(install, call, name):
    source, reason = BROKEN[name]
    install(f"plug-{name}", name, source)
    assert call("validate", "quickstart")[0] == 0
    for args in (["validate", "quickstart"], ["run", "quickstart", "--dry-run"]):
        code, _, err = call(*args, f"probes=[{name}]")
        assert code == 7
        assert len(err.splitlines()) == 1
        assert f"probe '{name}' of plug-{name} 0.3" in err
        assert reason in err


def test_a_name_of_two_is_an_error_of_one_line_until_it_is_told_whose(install, call):
    for which in "ab":
        install(f"plug-{which}", "same", PROBE.replace("NAME", "same"))
    code, _, err = call("validate", "quickstart", "probes=[same]")
    assert (code, len(err.splitlines())) == (7, 1)
    assert "write 'plug-a:same' or 'plug-b:same'" in err
    assert call("validate", "quickstart", "probes=['plug-b:same']")[0] == 0


def test_recipes_of_plugins_are_checked_too(tmp_path, monkeypatch):
    info = tmp_path / "plug_r-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-r\nVersion: 0.3\n")
    points = "[prunekit.recipes]\nr = plug_r.recipes\nlost = plug_r.lost\n"
    (info / "entry_points.txt").write_text(points)
    folder = tmp_path / "plug_r" / "recipes"
    folder.mkdir(parents=True)
    text = shipped_recipes()["quickstart"].read_text()
    (folder / "fine.yaml").write_text(text)
    (folder / "quickstart.yaml").write_text(text)
    (folder / "wrong.yaml").write_text(text.replace("sparsity: 0.8", "sparsity: 8"))
    monkeypatch.syspath_prepend(tmp_path)
    names = {e["name"] for e in recipe_entries() if e["distribution"] == "plug-r"}
    assert names == {"fine", "plug-r:quickstart", "wrong", "plug_r.lost"}
    import_check.load_named_recipe("fine")
    assert import_check.refused_claim("recipes", "fine") is None
    claim = import_check.refused_claim("recipes", "plug-r:quickstart")
    assert claim.startswith("its name 'quickstart' is that of prunekit")
    with pytest.raises(RecipeError, match=r"wrong\.yaml:\d+:\d+ .*sparsity: must be less than 1"):
        import_check.load_named_recipe("wrong")
    with pytest.raises(PluginError, match=r"no \*\.yaml in plug_r\.lost"):
        import_check.load_named_recipe("plug_r.lost")
