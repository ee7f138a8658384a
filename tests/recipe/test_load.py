"""Errors that only data and model show, told at the place where the recipe was written."""

from typing import Any

import pytest

from prunekit.errors import DataError, RecipeError
from prunekit.foundation.values import about_key
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.recipe.load import document_from_text, load_recipe, with_source_position
from prunekit.train.dry_run import dry_run

TEXT = """\
name: tiny
data: {name: digits, train_limit: 256}
model: {name: mlp, hidden: [16]}
strategies:
  - name: magnitude
    sparsity: 0.5
    scope: {include: [fc1.weight]}
  - {name: magnitude, sparsity: 0.5, scope: {include: [fc2.weight]}}
optimizer: {name: sgd, lr: 0.1}
phases: [{name: train, length: 4st}]
"""
VIT = "model={name: vit, depth: 1, embed_dim: 8, heads: 1, patch_size: 3}"
TOME = "compressors=[{name: tome, slot: tokens, ratio: 0.5}]"


def told(error: Exception, *overrides: str) -> str:
    document = document_from_text(TEXT, overrides, "r.yaml")
    with pytest.raises(type(error)) as raised, with_source_position(document):
        raise error
    return str(raised.value)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ("model.hidden: what", "r.yaml:3:28"),
        ("model.init: what", "r.yaml:3:1"),  # not written: its parent's
        ("model: what", "r.yaml:3:8"),
        ("strategies.0: what", "r.yaml:5:5"),
        ("strategies.0.scope: what", "r.yaml:7:12"),
        ("strategies.1.scope.include.0: what", "r.yaml:8:56"),
        ("strategies.1.mode: what", "r.yaml:8:5"),
        ("optimizer.rules: 'a' matches: nothing", "r.yaml:9:1"),
    ],
)
def test_an_error_about_a_key_is_told_at_its_place(message: str, where: str) -> None:
    assert told(RecipeError(message)) == f"{where} {message}"


def test_an_error_about_an_override_is_told_of_it() -> None:
    change = "strategies.1.scope={include: [fc3.weight]}"
    message = "strategies.1.scope: matches nothing"
    assert told(RecipeError(message), change) == f"override {change!r} {message}"


@pytest.mark.parametrize(
    "error",
    [
        RecipeError("anchor: not written in this recipe"),
        RecipeError("cadence: no key of a recipe"),
        RecipeError("strategy x: no key at all"),
        RecipeError("r.yaml:3:1 model.name: with_source_position already"),
        RecipeError(""),
        DataError("data.root: not of the recipe alone"),
        ValueError("model: a bug"),
    ],
    ids=str,
)
def test_any_other_error_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, with_source_position(document_from_text(TEXT)):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("message", "joined"),
    [
        ("scope: 'a' matches nothing", "strategies.3.scope: 'a' matches nothing"),
        ("scope.include.0: what", "strategies.3.scope.include.0: what"),
        ("strategy magnitude: what", "strategies.3: strategy magnitude: what"),
        ("fc1.weight: what", "strategies.3: fc1.weight: what"),
    ],
)
def test_a_component_puts_its_place_before_its_own_keys(message: str, joined: str) -> None:
    config = Magnitude.Config(name="magnitude", sparsity=0.5)
    with pytest.raises(RecipeError) as raised, about_key("strategies.3", config):
        raise RecipeError(message)
    assert str(raised.value) == joined


@pytest.mark.parametrize(
    ("overrides", "begin"),
    [
        ([VIT], r"override 'model=.*' model\.patch_size: 3 does not divide"),
        ([VIT.replace("3", "4"), TOME, "compressors.0.slot=here"],
         r"override 'compressors.0.slot=here' compressors\.0\.slot: ViT has no slot"),
        (["strategies.1.scope={include: [fc9.*]}"], r"override '.*' strategies\.1\.scope: 'fc9"),
        (["strategies.1.scope.include=[fc1.*]"], r"r\.yaml:8:45 strategies\.1\.scope: fc1.weight"),
        (["strategies.0.cadence={every: 0.01ep}"], r"override '.*' strategies\.0\.cadence: every"),
        (["strategies.0.structure={name: n_m, n: 1, m: 4}"],
         r"r\.yaml:5:5 strategies\.0: structure n_m: 1 of 4"),
        (["optimizer.rules=[{match: fc9, lr_scale: 2.0}]"], r"override '.*' optimizer\.rules: "),
        (["phases.0.length=0.01ep"],
         r"override 'phases.0.length=0.01ep' phases\.0\.length: 'train' has no step"),
        (["phases.0.length=99999999999999999999st"],
         r"override '.*' phases\.0\.length: .* steps in all, and a run has at most"),
        (["phases=[{name: a, length: 1st, repeat: 3}, {name: b, length: 0.001ep}]"],
         r"override '.*' phases\.1\.length: 'b' has no step"),
        (["anchor=5st", "phases=[{name: a, length: 1st, repeat: 3}, "
          "{name: b, length: 9st, start: anchor}]"],
         r"override 'phases=.*' phases\.1\.start: 'b' rewinds at step 3, before the anchor"),
        (["probes=[{name: burden, scope: {include: [fc9]}}]"], r"override '.*' probes\.0\.scope: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_has_its_place(
    overrides: list[str], begin: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(TEXT)
    document = document_from_text(TEXT, overrides, "r.yaml")
    with pytest.raises(RecipeError, match=f"^{begin}"), with_source_position(document):
        dry_run(load_recipe("r.yaml", overrides))
