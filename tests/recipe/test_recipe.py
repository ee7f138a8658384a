"""Recipes: defaults, overrides, what fits together, round trips, the hash, the schema."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.timeline import duration
from prunekit.pruning.probes.base import Probe
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.json_schema import json_schema
from prunekit.recipe.load import load_recipe, recipe_from, recipe_from_text
from prunekit.recipe.optimizers import AdamWConfig, SGDConfig
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry import PROBES, REGISTRIES

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALLEST = """
name: small
data: digits
model: mlp
optimizer: {name: adamw, lr: 5e-3}
phases: [{name: train, length: 2ep}]
"""
WHOLE = """
name: whole
seed: 3
precision: bf16
compile: true
threads: 2
ema: {decay: 0.999}
data: {name: digits, batch_size: 64, micro_batch: 32, augment: [flip, crop], validation: 0.1}
model: {name: vit, patch_size: 2, depth: 2, embed_dim: 32, heads: 2}
compressors: [{name: tome, slot: tokens, ratio: 0.25}]
strategies:
  - name: magnitude
    mode: ste
    sparsity: 0.8
    scope: {include: ["blocks.*"], exclude: []}
    structure: unstructured
    distribution: global
    schedule: {name: cubic, start: 10%, stop: 75%}
    cadence: {every: 20st}
    during: [train]
probes: [gradient_norm]
optimizer: {name: sgd, lr: 0.1, momentum: 0.9, rules: [{match: "*.bias", weight_decay: 0.0}]}
anchor: 10st
phases:
  - {name: warm, length: 100st, lr_schedule: constant}
  - name: train
    length: 2.5ep
    lr_schedule: {name: multi_step, warmup: 5%, milestones: [50%, 2ep], gamma: 0.5}
    start: anchor
    repeat: 3
    keep: best
evaluate: {every: 1ep}
checkpoint: {every: 25%}
logging: {every: 10st, histograms: 1ep}
"""


def test_importing_it_imports_no_torch():
    code = "import sys, prunekit.recipe.schema; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_loading_one_imports_no_torchvision():
    code = (
        "import sys; from prunekit.recipe.load import recipe_from_text;"
        f"recipe_from_text({WHOLE!r}); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["con", "NUL", "aux.1", "Com9.x.y", "a."])
def test_a_name_that_windows_keeps_for_itself_is_refused_there(name, monkeypatch):
    """A recipe, arm and sweep is called after nothing that this system cannot make a folder of."""
    text = SMALLEST.replace("name: small", f"name: {name}", 1)
    assert recipe_from_text(text).name == name
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(RecipeError, match=f"name: {re.escape(name)} (is a device|ends with a dot)"):
        recipe_from_text(text)
    assert recipe_from_text(text.replace(name, "com10")).name == "com10"


def test_defaults():
    recipe = recipe_from_text(SMALLEST)
    assert (recipe.seed, recipe.precision, recipe.compile, recipe.threads) == (0, "fp32", False, 1)
    assert recipe.ema is None
    assert recipe.compressors == recipe.strategies == recipe.probes == ()
    assert recipe.anchor == duration("0st")
    assert recipe.evaluate.every == duration("1ep")
    assert recipe.checkpoint.every == duration("25%")
    assert (recipe.logging.every, recipe.logging.histograms) == (duration("1%"), None)
    phase = recipe.phases[0]
    assert (phase.start, phase.repeat, phase.keep) == ("continue", 1, "last")
    assert phase.lr_schedule.name == "constant"
    assert isinstance(recipe.optimizer, AdamWConfig)
    assert recipe.optimizer.lr == 0.005


def test_every_key_is_read_into_its_own_class():
    recipe = recipe_from_text(WHOLE)
    assert recipe.strategies[0].sparsity == 0.8
    assert recipe.strategies[0].schedule.stop == duration("75%")
    assert recipe.compressors[0].ratio == 0.25
    assert recipe.data.augment == ("flip", "crop")
    assert recipe.phases[1].lr_schedule.milestones == (duration("50%"), duration("2ep"))
    assert isinstance(recipe.optimizer, SGDConfig)
    with pytest.raises(ValidationError):
        recipe.seed = 4


@pytest.mark.parametrize("text", [SMALLEST, WHOLE])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_is_read_with_any_line_ends_and_byte_order_mark(tmp_path, text, newline, mark):
    path = tmp_path / "r.yaml"
    path.write_bytes(mark + text.replace("\n", newline).encode())
    assert load_recipe(path) == recipe_from_text(text)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_comes_back(path):
    recipe = load_recipe(path)
    assert recipe_from_text(dump_yaml(recipe)) == recipe


@pytest.mark.parametrize("text", [SMALLEST, WHOLE])
def test_what_is_dumped_is_read_back(text):
    recipe = recipe_from_text(text)
    assert recipe_from_text(dump_yaml(recipe)) == recipe
    assert recipe_from(json.loads(recipe.model_dump_json())) == recipe
    assert recipe_from(recipe.model_dump()) == recipe


AWKWARD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        ["010", "1e3", "null", "~", "yes", "", " x ", "a: b", "#", "- x", "1_0", ".5", "=", "<<"]
    ),
)
POSITIVE = st.floats(min_value=1e-300, max_value=1e300)


@given(AWKWARD, POSITIVE, st.integers(0, 2**63 - 1), st.lists(AWKWARD, max_size=3))
def test_any_text_and_number_survives_the_round_trip(root, lr, seed, patterns):
    tree = {
        "name": "small",
        "seed": seed,
        "data": {"name": "digits", "root": root},
        "model": {"name": "mlp"},
        "optimizer": {"name": "sgd", "lr": lr, "rules": [{"match": m} for m in patterns]},
        "phases": [{"name": "train", "length": "1ep"}],
    }
    recipe = recipe_from(tree)
    assert recipe.data.root == root
    again = recipe_from_text(dump_yaml(recipe))
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


def test_overrides_change_the_value_before_it_is_checked():
    recipe = recipe_from_text(
        WHOLE,
        ["strategies.0.sparsity=0.5", "phases.1.length=7st", "probes=[]", "ema=null", "name=other"],
    )
    assert recipe.strategies[0].sparsity == 0.5
    assert recipe.phases[1].length == duration("7st")
    assert recipe.probes == ()
    assert recipe.ema is None
    assert recipe.name == "other"


@pytest.mark.parametrize(
    ("override", "path", "whole"),
    [
        ("strategies.0.schedule.stop=60%", "strategies.0.schedule", "{name: cubic, stop: 60%}"),
        ("loss.label_smoothing=0.1", "loss", "{name: cross_entropy, label_smoothing: 0.1}"),
        ("phases.0.lr_schedule.warmup=5%", "phases.0.lr_schedule", "{name: constant, warmup: 5%}"),
    ],
)
def test_a_key_of_what_stands_by_default_may_be_set_alone(override, path, whole):
    text = SMALLEST + "strategies: [{name: magnitude, sparsity: 0.5}]\n"
    alone = recipe_from_text(text, [override])
    assert alone == recipe_from_text(text, [f"{path}={whole}"])
    assert recipe_hash(alone) != recipe_hash(recipe_from_text(text))


def test_the_other_keys_of_a_default_stay_as_they_are_there():
    text = SMALLEST + "strategies: [{name: granet, sparsity: 0.5, schedule: {start: 5%}}]\n"
    (strategy,) = recipe_from_text(text).strategies
    assert (strategy.schedule.name, strategy.schedule.stop) == ("cubic", duration("50%"))
    with pytest.raises(RecipeError, match=r"schedule.stp: unknown key. Did you mean 'stop'"):
        recipe_from_text(text, ["strategies.0.schedule.stp=60%"])


def test_another_data_set_keeps_all_batching_keys():
    recipe = recipe_from_text(WHOLE, ["data.name=image_folder", "data.root=/some/where"])
    assert recipe.data.name == "image_folder"
    assert (recipe.data.batch_size, recipe.data.validation) == (64, 0.1)


def test_another_optimizer_refuses_the_keys_of_the_first():
    with pytest.raises(RecipeError, match=r"optimizer\.momentum: unknown key of 'adamw'\. Known: "):
        recipe_from_text(WHOLE, ["optimizer.name=adamw"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("phases=[]", "phases: must have at least 1 item, not 0"),
        ("phases.0.name=train", "phases.1.name: a second phase 'train': names are unique"),
        ("strategies.0.during=[trian]", "no phase is called 'trian'. Did you mean 'train'?"),
        ("compressors=[{name: tome, ratio: 0.1}, {name: tome, slot: tokens, ratio: 0.1}]",
         "compressors.1.slot: slot 'tokens' is taken by compressors.0"),
        ("data.validation=0.0", "phases.1.keep: 'best' needs a validation split"),
        ("data={name: digits}", "phases.1.keep: 'best' needs a validation split"),
        ("data.micro_batch=65", "data.micro_batch: 65 is more than batch_size, 64"),
        ("data={name: digits, validation: 0.1, micro_batch: 10000}", "is more than batch_size"),
        ("optimizer={name: sgd, lr: 1, momentum: 0, nesterov: true}", "nesterov needs a momentum"),
        ("phases.0.length=50%", "phases.0.length: a phase has its length in epochs or steps"),
        ("phases.0.length=0st", "phases.0.length: 0st is no step: only a recipe of one phase"),
        ("evaluate.every=0ep", "evaluate.every: must be more than 0"),
        ("name=.hidden", "name: must be 1 to 64 letters"),
        ("name=../up", "name: must be 1 to 64 letters"),
        ("name=" + "x" * 65, "name: must be 1 to 64 letters"),
        ("name='a\\n'", "name: must be 1 to 64 letters"),
        ("phases.0.name=a/b", "phases.0.name: must be 1 to 64 letters"),
        ("seed=-1", "seed: must be at least 0, not -1"),
        ("ema.decay=1.0", "ema.decay: must be less than 1, not 1.0"),
        ("optimizer.clip_norm=0", "optimizer.clip_norm: must be more than 0, not 0"),
        ("optimizer.lr=.nan", "optimizer.lr: must be"),
        ("optimizer.lr=.inf", "optimizer.lr: must be finite"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place(override, told):
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(WHOLE, [override])
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_does_not_fit_is_told_beside_what_is_not_valid():
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(WHOLE, ["seed=x", "phases.1.name=warm", "strategies.0.during=[tran]"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert {line.split(": ")[0].rpartition(" ")[2] for line in lines} == {
        "seed", "phases.1.name", "strategies.0.during.0"
    }  # fmt: skip


def test_a_recipe_made_in_python_is_checked_as_well():
    parts = dict(recipe_from_text(SMALLEST))
    phase = parts["phases"][0]
    with pytest.raises(ValidationError, match="a second phase"):
        Recipe(**{**parts, "phases": (phase, phase)})
    with pytest.raises(RecipeError, match=r"^phases\.1\.name: a second phase"):
        recipe_from({**parts, "phases": [phase, phase]})


def test_a_component_that_cannot_be_imported_is_told_with_its_place():
    class Abstract(Probe):
        pass

    with PROBES.temporarily("abstract", Abstract), pytest.raises(PluginError) as caught:
        recipe_from_text(SMALLEST + "probes: [{name: abstract}]\nseed: x\n", source="r.yaml")
    first, second = str(caught.value).splitlines()
    assert first.startswith("r.yaml:7:10 probes.0: probe 'abstract' of this process: Abstract")
    assert second == "r.yaml:8:7 seed: must be a whole number, not the text 'x'"


def changed(*overrides):
    return recipe_hash(recipe_from_text(WHOLE, overrides))


def test_the_hash_is_that_of_the_values_not_of_the_text():
    assert re.fullmatch("[0-9a-f]{64}", changed())
    shuffled = "\n".join(["# a comment", WHOLE.replace("seed: 3\n", ""), "seed: 0x3"])
    assert recipe_hash(recipe_from_text(shuffled)) == changed()
    assert changed("optimizer.nesterov=false", "optimizer.lr=1e-1", "threads=2") == changed()


@pytest.mark.parametrize(
    "override",
    [
        "name=x",
        "data.root=/else/where",
        "data.download=true",
        "logging.every=1st",
        "checkpoint.every=1ep",
        "probes=[]",
    ],
)
def test_what_cannot_change_the_result_does_not_change_the_hash(override):
    assert changed(override) == changed()


@pytest.mark.parametrize(
    "override",
    [
        "seed=4",
        "precision=fp32",
        "compile=false",
        "threads=1",
        "ema=null",
        "data.batch_size=128",
        "data.micro_batch=64",
        "data.test_limit=10",
        "model.depth=3",
        "compressors=[]",
        "strategies.0.sparsity=0.81",
        "strategies.0.cadence.every=21st",
        "optimizer.lr=0.2",
        "anchor=0st",
        "phases.0.length=101st",
        "evaluate.every=2ep",
    ],
)
def test_what_can_change_the_result_changes_the_hash(override):
    assert changed(override) != changed()


def test_the_schema_knows_every_key_and_component():
    schema = json_schema()
    json.dumps(schema)
    assert schema["$schema"].endswith("draft-07/schema#")
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert set(schema["required"]) == {"name", "data", "model", "optimizer", "phases"}
    slots = {
        "strategy": schema["properties"]["strategies"]["items"],
        "compressor": schema["properties"]["compressors"]["items"],
        "probe": schema["properties"]["probes"]["items"],
        "logger": schema["properties"]["loggers"]["items"],
        "dataset": schema["properties"]["data"],
        "model": schema["properties"]["model"],
        "loss": schema["properties"]["loss"],
    }
    for kind, slot in slots.items():
        names, *members = slot["anyOf"]
        assert names["enum"] == REGISTRIES[kind].names()
        assert len(members) == len(names["enum"])
        for name, member in zip(names["enum"], members, strict=True):
            definition = schema["definitions"][member["$ref"].removeprefix("#/definitions/")]
            assert "name" in definition["required"]
            assert definition["additionalProperties"] is False
            assert set(definition["properties"]) == set(
                REGISTRIES[kind].config_class(name).model_fields
            )


@pytest.mark.parametrize(
    "title", ["Recipe", "Phase", "AdamWConfig", "SGDConfig", "EMAConfig", "LoggingConfig"]
)
def test_every_key_of_the_schema_is_explained(title):
    schema = json_schema()
    definition = {"Recipe": schema, **schema["definitions"]}[title]
    for key, value in definition["properties"].items():
        assert key == "name" or "description" in value or "$ref" in value, key


def with_defaults(node):
    """Every schema below `node` that has a default."""
    if isinstance(node, dict):
        yield from [node] if "default" in node else []
        node = list(node.values())
    for inner in node if isinstance(node, list) else ():
        yield from with_defaults(inner)


def fits(value, schema):
    """Whether a value has the type of a schema, and its pattern; what refers to another fits."""
    if isinstance(value, list):
        items = schema["items"]
        each = items if isinstance(items, list) else [items] * len(value)
        return all(map(fits, value, each))
    if "pattern" in schema:
        return isinstance(value, str) and re.fullmatch(schema["pattern"], value) is not None
    return schema.get("type") != "string" or isinstance(value, str)


def test_the_schema_has_each_default_as_a_recipe_writes_it():
    """A duration is a text; the schema once had its parts, or on older versions nothing."""
    schemas = [one for one in with_defaults(json_schema()) if "items" in one or "pattern" in one]
    durations = [one for one in schemas if isinstance(one["default"], str)]
    assert len(durations) > 10
    assert all(fits(one["default"], one) for one in schemas if one["default"] is not None)


def test_the_schema_has_nothing_that_draft_7_does_not_know():
    text = json.dumps(json_schema())
    assert '"prefixItems"' not in text
    assert '"discriminator"' not in text
    refs = set(re.findall(r'"\$ref": "([^"]*)"', text))
    known = {f"#/definitions/{name}" for name in json_schema()["definitions"]}
    assert refs <= known


def test_the_schema_leaves_out_what_cannot_be_imported():
    class Abstract(Probe):
        pass

    with PROBES.temporarily("abstract", Abstract):
        names = json_schema()["properties"]["probes"]["items"]["anyOf"][0]["enum"]
    assert names == PROBES.names()
