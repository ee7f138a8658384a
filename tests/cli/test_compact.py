"""`prunekit compact`: what it prints, and how it exits."""

import json

import pytest

from prunekit.errors import DataError, ExportError, UsageError
from prunekit.export import compacting
from tests.support.training import run
from tests.train.test_compacting import CHANGES


@pytest.fixture(scope="module")
def zeros(tmp_path_factory):
    return run(tmp_path_factory.mktemp("out"), **CHANGES)


def test_the_command_shows_what_left(call, zeros, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("compact", zeros, "--out", "small")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "layer units before after"
    assert any(line.startswith("blocks.0.attn.qkv.weight heads 3 ") for line in lines)
    assert any("parameters, now" in line for line in lines)
    assert any("multiply-adds of one image, now" in line for line in lines)
    assert any(line.startswith("Wrote small/model.safetensors") for line in lines)


def test_the_command_gives_one_document(call, zeros, tmp_path):
    code, out, _ = call("compact", zeros, "--out", tmp_path / "small", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["folder"] == str(tmp_path / "small")
    assert document["removed"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(ExportError("no"), 9), (UsageError("pip install"), 2), (DataError("gone"), 4)],
)
def test_what_goes_wrong_is_one_line_with_its_code(call, zeros, monkeypatch, error, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(compacting, "compact", fail)
    ended, out, err = call("compact", zeros)
    assert (ended, out) == (code, "")
    assert len(err.splitlines()) == 1


def test_what_is_no_run_ends_with_5(call, tmp_path):
    ended, _, err = call("compact", tmp_path / "none")
    assert (ended, len(err.splitlines())) == (5, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_leaves_nothing_to_remove_is_told_by_validate(call, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ndata: digits\nmodel: mlp\nstrategies: [{name: magnitude, sparsity: 0.5}]\n"
        "optimizer: {name: adamw, lr: 1.0e-3}\nphases: [{name: train, length: 1ep}]\n"
        "finish: compact\n"
    )
    code, out, err = call("validate", recipe)
    assert (code, err) == (0, "")
    told = out.splitlines()
    assert told[0] == f"{recipe}: valid"
    assert told[1].startswith(f"{recipe}: finish: compact has nothing to remove")
    code, out, _ = call("validate", recipe, "strategies.0.structure=channel", "--json")
    assert json.loads(out)["recipes"][0]["notes"] == []
