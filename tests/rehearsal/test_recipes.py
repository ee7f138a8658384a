"""Every registered name on the pretend device: no error, the CPU's masks, resumed bit for bit."""

import re

import pytest

from prunekit.cli.values import VALUES, value_names
from prunekit.errors import RecipeError
from prunekit.recipe.load import recipe_from
from prunekit.recipe.optimizer_names import OPTIMIZERS
from prunekit.recipe.schema import Phase, Recipe
from prunekit.registry import REGISTRIES
from prunekit.train.launch import run_recipe
from tests.rehearsal.coverage import NOT_REHEARSED, choices, names_used
from tests.rehearsal.faults import FAULTS, found
from tests.rehearsal.pairs import all_pairs, pairs_of, pairwise
from tests.rehearsal.recipes import (
    BASE,
    OPTIONS,
    VIT,
    Case,
    cases,
    modes_of,
    one_each,
    strategies,
)
from tests.rehearsal.rehearsing import rehearse, trained

CASES = cases()
REMEDY = "give it a recipe in tests/rehearsal/recipes.py, or a reason in coverage.py"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_on_the_device_ends_as_it_must(case, pretend):
    assert pretend(rehearse, case) == []


@pytest.mark.parametrize("case", one_each(CASES), ids=str)
def test_no_strategy_needs_float64(case, pretend_float32):
    assert pretend_float32(trained, case) == []


# ---- nothing that is registered is left out


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_name_is_in_a_recipe(kind):
    names = set(REGISTRIES[kind].names())
    builtin = {name for name in names if REGISTRIES[kind].component(name).builtin}
    assert builtin - names_used(CASES)[kind] == set(NOT_REHEARSED.get(kind, {})), REMEDY


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_that_is_no_component_is_in_a_recipe(kind):
    names = OPTIMIZERS.names() if kind == "optimizers" else value_names(kind)
    assert set(names) - names_used(CASES)[kind] == set(NOT_REHEARSED.get(kind, {})), REMEDY


@pytest.mark.parametrize("name", NOT_REHEARSED["optimizers"])
def test_an_optimizer_that_is_left_out_is_refused_by_runs(name, tmp_path):
    tree = BASE | {"optimizer": {"name": name, "lr": 0.1}, "device": "cpu"}
    with pytest.raises(RecipeError, match=r"optimizer\.name"):
        run_recipe(recipe_from(tree), out=tmp_path)


def test_every_strategy_has_each_of_its_modes_compared_with_the_cpu():
    seen = {
        (one["name"], one["mode"])
        for case in CASES
        if case.exact
        for one in case.tree["strategies"]
    }
    assert seen >= {(name, mode) for name in strategies() for mode in modes_of(name)}


@pytest.mark.parametrize(
    ("owner", "key"),
    [(Recipe, "precision"), (Recipe, "finish"), (Phase, "start"), (Phase, "keep")],
)
def test_every_choice_of_a_key_is_in_a_recipe(owner, key):
    assert choices(owner, key) == names_used(CASES)[key]


def test_scopes_are_large_enough_for_a_search_that_begins_at_a_sample():
    assert 3 * VIT["embed_dim"] ** 2 > 32_768  # one tensor alone: queries, keys and values


def test_every_two_options_of_a_step_meet():
    axes = {axis: list(options) for axis, options in OPTIONS.items()}

    def rows():
        first = [{"precision": ["fp32"]}] * 5
        return list(pairwise(axes, first, lambda n: {"ema": [("none", "yes")[n % 2]]}))

    assert set().union(*map(pairs_of, rows())) == all_pairs(axes)
    assert [row["precision"] for row in rows()[:5]] == ["fp32"] * 5
    assert rows() == rows()
    with pytest.raises(ValueError, match="no row that is allowed"):
        list(pairwise({"a": ["1", "2"], "b": ["1", "2"]}, [], lambda _: {"a": ["1"]}))


# ---- and it can fail


def _case(name: str, **changes: object) -> Case:
    strategy = {"name": name, "sparsity": 0.8, "cadence": {"every": "2st"}}
    tree = {
        **BASE,
        "compressors": [{"name": "tome", "ratio": 0.4}],
        "strategies": [strategy],
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "ema": {"decay": 0.9},
        "phases": [{"name": "train", "length": "8st"}],
        **changes,
    }
    return Case(name, tree, exact=False)


@pytest.mark.parametrize(
    ("fault", "strategy", "told"),
    [
        ("places of the host in a merge", "magnitude", "RuntimeError: .*same device"),
        ("sums of the host", "magnitude", "RuntimeError: .*same device"),
        ("numpy of the device", "magnitude", "TypeError: can't convert pretend:0 device type"),
    ],
)
def test_a_fault_of_devices_is_found(fault, strategy, told, pretend):
    assert re.match(told, pretend(found, fault, _case(strategy)))


def test_masks_that_a_strategy_gives_on_the_host_are_none(pretend):
    assert pretend(found, "masks of the host", _case("rigl")) == ""


def test_a_wait_that_is_put_in_is_counted_with_its_line(pretend):
    told = pretend(found, "a look at the average", _case("magnitude")).split("; ")
    assert [re.match(r"step (\d): 1 waits\n +1 item: train/trainer", one)[1] for one in told] == [
        *("3", "5", "7")
    ]


def test_all_five_faults_are_tried():
    assert len(FAULTS) == 5
