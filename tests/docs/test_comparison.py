"""The script of the comparison: its recipes, its tables, the parts of its page."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from prunekit.recipe.load import recipe_from
from prunekit.registry import STRATEGIES

DOCS = Path(__file__).parents[2] / "docs"
NO_TARGET = {"str_threshold", "movement_soft"}
ELSEWHERE = {"lottery_ticket", "sr_ste", "optimal_subnetwork"}
"""On MNIST alone: several runs each, a pattern of its own, another run's mask."""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for name in (
        "make_comparison.py",
        "comparison_mnist.py",
        "comparison_tasks.py",
        "comparison.md",
    ):
        shutil.copy(DOCS / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in ("make_comparison", "comparison_mnist", "comparison_tasks"):
            patch.delitem(sys.modules, name, raising=False)
        return importlib.import_module("make_comparison")


def names(trees):
    return {one["name"] for tree in trees for one in tree["strategies"]}


def test_every_strategy_is_in_the_tables_and_every_recipe_is_valid(script):
    builtin = {one.name for one in STRATEGIES.components() if one.builtin}
    on_mnist = script.comparison_mnist
    mnist = [on_mnist.recipe_of(cell, "x", Path("runs"), 1) for cell in on_mnist.cells(1)]
    cifar = script.TASKS["cifar"]
    images = [cifar.recipe(cell, "x", Path("runs")) for cell in cifar.cells(1)]
    cuts = script.TASKS["one_shot"]
    cut = [cuts.recipe(cell, "x", Path("runs")) for cell in cuts.cells(1)]
    for tree in (*images, *cut):
        recipe_from(tree)
    assert names(mnist) == builtin - NO_TARGET == names(images) | ELSEWHERE
    assert on_mnist.NOT_COMPARED.keys() == NO_TARGET
    assert names(cut) == {
        "random_subnetwork", "magnitude", "lamp", "taylor", "wanda", "sparse_gpt"
    }  # fmt: skip
    assert {tree["phases"][0]["length"] for tree in cut if tree["strategies"]} == {"0st"}
    folders = [cell.name for task in (cifar, cuts) for cell in task.cells(3)]
    assert len(folders) == len(set(folders))


def test_a_small_dense_net_is_what_the_structured_arms_leave(script):
    """By the numbers: half of 16, 32 and 64 channels; of 4 heads and of 4 x 96 hidden units."""
    small = sys.modules[script.Task.__module__].SMALL
    assert small["resnet"]["widths"] == [16 // 2, 32 // 2, 64 // 2]
    assert small["vit"] == {"head_counts": [4 // 2] * 4, "hidden": [4 * 96 // 2] * 4}


def test_the_table_shows_time_beside_the_dense_network(script, monkeypatch):
    tasks = sys.modules[script.Task.__module__]
    monkeypatch.setattr(tasks, "beside_dense", lambda model, run: {run: {"ratio": 0.75}})

    def report(cell):
        if cell.model == "vit" or cell.arm not in ("dense", "small_dense", "fpgm", "set"):
            return None
        return {
            "accuracy": {"test_top1": 0.5 + 0.01 * cell.seed},
            "parameters": {"stored": 1234},
            "macs": {"executed": 5678},
            "latency": {"torch": {"8": {"ratio": 1.5}}},
            "run": {"small_dense": "1", "fpgm": "8"}.get(cell.arm),
        }

    rows = script.TASKS["cifar"].table(report, 3).splitlines()
    assert "| `fpgm` | 0.5 | 51.00 ± 1.00 | 1,234 | 5,678 | not measured | 0.75 |" in rows
    assert "| `small_dense` | 0 | 51.00 ± 1.00 | 1,234 | 5,678 | 0.75 | not measured |" in rows
    assert "| `set` | 0.9 | 51.00 ± 1.00 | 1,234 | 5,678 | not measured | 1.50 |" in rows
    assert "| `rigl` | 0.9 | not run | | | | |" in rows


def test_a_part_is_written_between_its_marks(script, tmp_path):
    page = tmp_path / "comparison.md"
    shutil.copy(DOCS / "comparison.md", page)
    before = page.read_text()
    marks = re.findall(r"<!-- task: (\w+) -->", before)
    assert sorted(marks) == sorted(["mnist", *script.TASKS])
    part = script.task_part(script.TASKS["cifar"], tmp_path / "runs", 3)
    assert "Not run yet. 0 of 159 runs." in part
    script.write_part("cifar", part, page)
    after = page.read_text()
    assert after.count("<!-- end -->") == len(marks)
    assert after.split("<!-- task: cifar -->")[0] == before.split("<!-- task: cifar -->")[0]
    assert "| `granet` | 0.9 | not run |" in after


@pytest.mark.slow
def test_what_a_run_left_is_timed_in_turn_with_the_dense_network(script, tmp_path):
    for place in ("train/ant", "train/bee", "test/ant", "test/bee"):
        folder = tmp_path / "images" / place
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
    cell = next(c for c in script.TASKS["cifar"].cells(1) if c.arm == "small_dense")
    tree = script.TASKS["cifar"].recipe(cell, str(tmp_path / "images"), tmp_path)
    tree["data"] = {"name": "image_folder", "root": tree["data"]["root"], "batch_size": 4}
    tree["phases"] = [{"name": "none", "length": "0st"}]
    assert script.run_cell((cell.name, tree, tmp_path)) == (cell.name, "")
    run = script.report_of(cell.name, tmp_path)["run"]
    timed = sys.modules[script.Task.__module__].beside_dense(cell.model, run)
    assert timed.keys() == {"1", "8"}
    for one in timed.values():
        assert 0 < one["ratio_low"] <= one["ratio"] <= one["ratio_high"]
        assert one["median_ms"] != one["dense_ms"]
