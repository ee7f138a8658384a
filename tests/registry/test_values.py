"""Structures, distributions and schedules of others: imported when named, told by their origin."""

import sys
import textwrap

import pytest
import torch

from prunekit import Pruner, strategy
from prunekit.errors import PluginError
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.json_schema import json_schema
from prunekit.recipe.load import load_recipe, recipe_from
from prunekit.registry import REGISTRIES, SCHEDULES, STRUCTURES
from prunekit.registry.own_code import read_code, use_code
from prunekit.registry.values import plugins_in
from prunekit.runs.directory import open_run
from prunekit.train.launch import run_recipe
from tests.registry.test_registry import install  # noqa: F401 - a fixture
from tests.support.own_code import own_recipe, written

MINE = '''
from typing import Literal

import torch
from prunekit import Distribution, Grouped, Group, Part, Ramp, Units


class Rows(Grouped):
    """A row of a weight and nothing else."""

    name: Literal["rows"] = "rows"
    first: int = 0
    """Rows in front that are left alone."""

    def units(self, model, names):
        shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
        return Units({n: Group(s[0], s, (Part(n, s, s, (0,)),)) for n, s in shapes.items()})


class Halves(Ramp):
    """A quarter, then all."""

    name: Literal["halves"] = "halves"

    def share(self, progress):
        return 1.0 if progress >= 1 else 0.25
'''
TREE = {
    "name": "x",
    "data": {"name": "digits", "train_limit": 64, "batch_size": 32, "test_limit": 20},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "phases": [{"name": "train", "length": "4st"}],
}
POINTS = [("prunekit.structures", "rows = plug_rows:Rows")]


def tree(**keys):
    return {**TREE, "strategies": [{"name": "magnitude", "sparsity": 0.5, **keys}]}


def test_a_structure_of_a_plugin_is_imported_when_a_recipe_names_it(install, tmp_path):  # noqa: F811
    install("plug-rows", POINTS, MINE)
    assert "rows" in STRUCTURES.names()
    recipe_from(tree(structure="channel", scope={"include": ["layers.0.weight", "0.weight", "*"]}))
    assert "plug_rows" not in sys.modules
    recipe = recipe_from(tree(structure={"name": "rows", "first": 0}, distribution="uniform"))
    (settings,) = recipe.strategies
    assert plugins_in(settings) == ["structure 'rows' of plug-rows 0.2"]
    run = open_run(run_recipe(recipe, out=tmp_path))
    assert run.recipe() == recipe
    for mask in run.masks().values():
        assert (mask.all(1) | ~mask.any(1)).all()  # whole rows
    schema = json_schema()["definitions"]
    names = next(d for d in schema.values() if d.get("title") == "Config" and "regrow" in str(d))
    assert "rows" in names["properties"]["structure"]["anyOf"][0]["enum"]


def test_what_it_does_wrong_is_told_with_its_distribution(install):  # noqa: F811
    source = MINE + textwrap.dedent("""
        class Broken(Rows):
            name: Literal["broken"] = "broken"

            def select(self, model, demand, distribution):
                return {n: s > 0 for n, s in demand.scores.items()}
        """)
    install("plug-rows", [("prunekit.structures", "broken = plug_rows:Broken")], source)
    model = torch.nn.Linear(4, 4)
    half = strategy("magnitude", sparsity=0.5, schedule="constant", structure="broken")
    pruner = Pruner(model, [half], total_steps=1)
    with pytest.raises(PluginError, match=r"structure 'broken' of plug-rows 0\.2.*promised"):
        pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_file_of_code_brings_them_too_and_counts_in_the_hash(tmp_path):
    text = """
name: own
data: {name: digits, train_limit: 64, batch_size: 32, test_limit: 20}
model: {name: mlp, hidden: [8]}
strategies: [{name: magnitude, sparsity: 0.5, structure: rows, schedule: halves}]
optimizer: {name: sgd, lr: 0.1}
phases: [{name: train, length: 4st}]
"""
    recipe, code = own_recipe(tmp_path, text), written(tmp_path, MINE)
    with use_code(code):
        assert {k for k, r in REGISTRIES.items() if r.own} == {"structure", "schedule"}
        loaded = load_recipe(recipe)
        assert [loaded.strategies[0].schedule.share(u) for u in (0.5, 1)] == [0.25, 1.0]
    other = load_recipe(recipe, code=written(tmp_path, MINE + "\n# other", "other.py"))
    assert recipe_hash(other) != recipe_hash(loaded)
    run = open_run(run_recipe(loaded, out=tmp_path, code=code))
    assert run.code() == {"name": "mine.py", "sha256": read_code(code).sha256}
    assert all((mask.all(1) | ~mask.any(1)).all() for mask in run.masks().values())
    assert "halves" not in SCHEDULES.names()
