"""The shipped recipes of SET, RigL, AC/DC and lottery tickets, cut short."""

from pathlib import Path

import pytest

from prunekit.recipe.find import shipped_recipes
from prunekit.recipe.load import load_recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.directory import open_run
from prunekit.train.launch import run_recipe
from tests.support.scored import kept_by_decimals

SHORT = ["data.train_limit=128", "data.test_limit=64", "phases.0.length=20st"]
WEIGHTS = 64 * 128 + 128 * 64 + 64 * 10


@pytest.mark.parametrize(
    ("name", "overrides", "updates"),
    [
        ("set_digits", [], [0, 4, 8, 12]),  # 2 steps an epoch; nothing moves from step 15 on
        ("rigl_digits", [], [0, 5, 9, 13]),  # each inside the step that follows
        ("ac_dc_digits", [], [1, 3, 5, 7, 9, 11, 13, 15, 17]),
        (
            "lottery_ticket_digits",
            ["phases.0.length=2st", "phases.1.length=3st", "anchor=1st"],
            list(range(0, 17, 2)),
        ),
    ],
)
def test_a_recipe_updates_when_it_says_and_ends_at_its_sparsity(
    name: str, overrides: list[str], updates: list[int], tmp_path: Path
) -> None:
    recipe = load_recipe(shipped_recipes()[name], [*SHORT, *overrides])
    done = open_run(run_recipe(recipe, source_text=dump_yaml(recipe), out=tmp_path))
    told = [line for line in done.metrics() if "sparsity/achieved" in line]
    assert [line["step"] for line in told] == updates
    target = recipe.strategies[0].sparsity
    assert done.report()["sparsity"]["target"] == target
    kept = sum(int(mask.sum()) for mask in done.masks().values())
    assert kept == kept_by_decimals(WEIGHTS, target)
    if name == "ac_dc_digits":
        kinds = [round(line["sparsity/achieved"], 2) for line in told]
        assert kinds == [0.95, 0.0] * 4 + [0.95]
