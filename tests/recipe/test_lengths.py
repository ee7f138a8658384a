"""Defaults that follow a run's length, and those in steps that runs of before were begun with."""

import json
from typing import Any

import pytest

from prunekit.recipe.identity import cell_key, recipe_hash
from prunekit.recipe.load import document_from_text, recipe_from_document
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml

TREE: dict[str, Any] = {
    "name": "lengths",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adamw", "lr": 0.1},
    "phases": [{"name": "train", "length": "3st"}],
}


def read(as_of: int | None, **parts: Any) -> Recipe:
    return recipe_from_document(document_from_text(json.dumps(TREE | parts)), as_of)


def timing(as_of: int | None, **settings: Any) -> tuple[str, str, str]:
    """Interval, stop of the cadence and of the schedule, as a recipe of this format means them."""
    made: Any = read(as_of, strategies=[{"name": "magnitude", "sparsity": 0.5} | settings])
    [one] = made.strategies
    stop = getattr(one.schedule, "stop", "-") if hasattr(one, "schedule") else "-"
    return str(one.cadence.every), str(one.cadence.stop), str(stop)


PHASES = {"name": "geometric", "rounds": 2}


@pytest.mark.parametrize(
    ("settings", "before", "now"),
    [
        ({}, "100st 100% 100%", "1% 100% 75%"),
        ({"schedule": "linear"}, "100st 100% 100%", "1% 100% 75%"),
        ({"schedule": {"name": "cosine", "start": "5%"}}, "100st 100% 100%", "1% 100% 75%"),
        ({"schedule": {"name": "cubic", "stop": "60%"}}, "100st 100% 60%", "1% 100% 60%"),
        ({"cadence": {}}, "100st 100% 100%", "1% 100% 75%"),
        ({"cadence": {"stop": "50%"}}, "100st 50% 100%", "1% 50% 75%"),
        ({"cadence": {"every": "7st"}}, "7st 100% 100%", "7st 100% 75%"),
        ({"cadence": {"every": "phase"}}, "phase 100% 100%", "phase 100% 100%"),
        ({"cadence": {"every": "once"}}, "once 100% 100%", "once 100% 75%"),
        ({"name": "lamp"}, "100st 100% 100%", "1% 100% 75%"),
        ({"name": "set"}, "100st 75% -", "5% 75% -"),
        ({"name": "rigl", "cadence": {"stop": "50%"}}, "100st 50% -", "5% 50% -"),
        ({"name": "movement"}, "1st 100% 80%", "1st 100% 80%"),
        ({"name": "sr_ste"}, "1st 100% -", "1st 100% -"),
        ({"name": "snip"}, "once 100% -", "once 100% -"),
        ({"name": "lottery_ticket", "schedule": PHASES}, "phase 100% 100%", "phase 100% 100%"),
    ],
)
def test_what_is_left_out_means_what_its_format_meant(
    settings: dict[str, Any], before: str, now: str
) -> None:
    assert " ".join(timing(1, **settings)) == before
    assert " ".join(timing(None, **settings)) == now


@pytest.mark.parametrize("as_of", [1, None])
def test_a_recipe_that_was_written_out_means_the_same_in_both_formats(as_of: int | None) -> None:
    """As `resolved.yaml` of a run, that of a sweep's cell, and what a model file holds."""
    strategies = [
        {"name": "magnitude", "sparsity": 0.5, "scope": {"include": ["fc1.weight"]}},
        {"name": "set", "sparsity": 0.5, "scope": {"include": ["fc2.weight"]}},
    ]
    probes = ["burden", "gradient_norm"]
    made = read(as_of, strategies=strategies, probes=probes)
    document = document_from_text(dump_yaml(made))
    again = [recipe_from_document(document, one) for one in (1, None)]
    assert again == [made, made]
    assert {recipe_hash(one) for one in again} == {recipe_hash(made)}
    assert {cell_key(one) for one in again} == {cell_key(made)}


def test_logs_and_probes_have_their_old_intervals_too() -> None:
    def intervals(as_of: int | None) -> list[str]:
        made: Any = read(as_of, probes=["burden", "gradient_norm"])
        burden, norm = made.probes
        return [str(made.logging.every), str(burden.every), str(norm.cadence.every)]

    assert intervals(1) == ["10st", "50st", "100st"]
    assert intervals(None) == ["1%", "1%", "1%"]
