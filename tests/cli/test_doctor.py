"""`prunekit doctor`: it tells what is here, passes where pruning works, and fails where not."""

import getpass
import json
import platform
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from prunekit.cli.app import cli
from prunekit.foundation.devices import HOST
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.train import machine, self_test as module
from prunekit.train.self_test import self_test


def doctor(*arguments):
    return CliRunner().invoke(cli, ["doctor", "--no-compile", *arguments])


def failed(checks):
    return [check.what for check in checks if not check.holds]


def test_it_tells_what_a_bug_report_needs_and_nothing_private():
    done = doctor("--json", "--device", "cpu")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["device"] == "cpu"
    assert found["cpu"]["memory"] > found["cpu"]["free"] > 0
    assert found["dtypes"]["float32"] == found["attention"]["plain products"] == "works"
    assert found["self_test"]["passed"] is True
    assert len(found["self_test"]["checks"]) == 5
    for private in (str(Path.home()), str(Path.cwd()), platform.node()):
        assert private not in done.stdout
    assert f'"{getpass.getuser()}"' not in done.stdout


def test_an_error_is_told_without_the_path_of_a_file():
    told = machine._without_paths("/home/ann/lib/x.so: no symbol; see ~/a b/c.txt, 3/4")
    assert told == "x.so: no symbol; see c.txt, 3/4"


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_self_test_that_fails_is_told_and_is_the_exit_code(monkeypatch, as_json):
    monkeypatch.setattr(Magnitude, "score", lambda self, name, ctx: -ctx.weights[name].abs())
    monkeypatch.setattr(Magnitude, "scores", ScoredStrategy.scores)
    done = doctor(*as_json)
    assert done.exit_code == 1
    assert "the largest weights are kept" in done.stdout
    if as_json:
        assert json.loads(done.stdout)["self_test"]["passed"] is False
    else:
        assert "FAILED" in done.stdout.splitlines()[-1]


def test_pruned_weights_that_live_are_found(monkeypatch):
    monkeypatch.setattr(MaskSet, "attach", lambda *args, **kwargs: None)  # no hook after the step
    assert "pruned weights stay 0" in failed(self_test(HOST).checks)


def test_a_device_that_breaks_is_a_check_that_fails(monkeypatch):
    def broken(*args):
        raise RuntimeError("device-side assert\ntriggered")

    monkeypatch.setattr(module, "build", broken)
    (check,) = self_test(HOST).checks
    assert not check.holds
    assert check.found == "RuntimeError: device-side assert triggered"


def test_a_device_that_is_not_here_is_one_line():
    done = doctor("--device", "meta")
    assert str(done.exception).startswith("device: meta is not to be had here")


def test_extras_are_those_of_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
    lines = [
        "numpy>=2",
        "torch>=2.11; extra == 'fast'",
        'no-such_package; extra == "fast"',
        "pytest; extra == 'test'",
    ]
    monkeypatch.setattr(machine, "requires", lambda name: lines)
    found = machine.extras()
    assert list(found) == ["fast"]
    assert machine.missing(found["fast"]) == ["no-such_package"]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "of another package"\n')
    assert machine.extras() == found


def test_extras_of_a_checkout_are_those_of_its_file_today(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "requires", lambda name: ["torch; extra == 'of-before'"])
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
    extras = 'new = ["torch>=2.11", "prunekit[dev]"]\ndev = ["torch"]\n'
    text = f'[project]\nname = "prunekit"\n[project.optional-dependencies]\n{extras}'
    (tmp_path / "pyproject.toml").write_text(text)
    found = machine.extras()
    assert {extra: list(packages) for extra, packages in found.items()} == {"new": ["torch"]}
