"""The stock models of `docs/models.md`: the page is what was tried, and a few are tried again."""

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TRIED = json.loads((DOCS / "models_tried.json").read_text("utf-8"))["models"]
SAMPLE = ("timm:test_byobnet", "timm:test_convnext", "timm:test_vit", "torchvision:squeezenet1_1")
SOUND = ("trains", "without ", "refused: ", "no attention", "built only", "not within ")


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_model_table.py"), run_name="make_model_table")


def test_the_table_is_what_was_tried(script):
    assert (DOCS / "models.md").read_text("utf-8") == script["page"](), (
        "python docs/make_model_table.py writes it anew"
    )


@pytest.mark.parametrize("family", TRIED)
def test_each_model_trains_or_is_refused_in_a_line(family):
    told = [TRIED[family].get(key, "built only") for key in ("magnitude", "filters", "heads")]
    assert all(one.startswith(SOUND) and "\n" not in one for one in told), told


def test_every_family_was_tried(script):
    assert set(TRIED) == set(script["families"]())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_does_as_the_table_says(script, name):
    (row,) = (row for row in TRIED.values() if row["model"] == name)
    assert script["tried"](name).items() <= row.items()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", sorted(TRIED, key=lambda one: TRIED[one]["parameters"]))
def test_a_model_of_each_family(script, family):
    row = TRIED[family]
    if row["parameters"] <= script["LARGEST"]:
        told = script["tried_apart"](row["model"])
        assert all(one.startswith(SOUND) for key, one in told.items() if key != "input"), told
    assert sum(p.numel() for p in script["on_meta"](row["model"]).parameters()) == row["parameters"]
