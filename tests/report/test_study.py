"""Runs sorted into arms, axes and cells; what is compared with what; what is said to be missing."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from prunekit.errors import CheckpointError, UsageError
from prunekit.foundation.files import write_json
from prunekit.report.comparison import Baseline, accuracy, chosen_baselines, differences, repeating
from prunekit.report.document import compare, conditions, report_of
from prunekit.report.figures.cost import COSTS, points_of
from prunekit.report.labels import in_order
from prunekit.report.notices import notices, warnings
from prunekit.report.read import read_recipe
from prunekit.report.settings import arm_names, distinctions, settings, short_keys, swept_numbers
from prunekit.report.statistics import paired_difference
from prunekit.report.study import open_study
from prunekit.report.tables import cell_table, difference_row, difference_table
from tests.support.made_runs import magnitude, make_comparison, make_run, make_sweep, random, report


@pytest.fixture
def runs(tmp_path):
    return make_comparison(tmp_path / "runs")


def test_seeds_are_repetitions_and_a_number_that_varies_alone_is_an_axis(runs):
    study = open_study([runs])
    assert study.arms == ("dense", "magnitude", "random_subnetwork")
    assert study.axes == {"sparsity": ("0.8", "0.9")}
    assert [(cell.arm, dict(cell.labels), list(cell.runs)) for cell in study.cells] == [
        ("dense", {}, [0, 1, 2]),
        ("magnitude", {"sparsity": "0.8"}, [0, 1, 2]),
        ("magnitude", {"sparsity": "0.9"}, [0, 1, 2]),
        ("random_subnetwork", {"sparsity": "0.8"}, [0, 1, 2]),
        ("random_subnetwork", {"sparsity": "0.9"}, [0, 1, 2]),
    ]
    assert (study.missing, study.repeated) == ((), 0)


def test_differences_are_taken_by_seed_against_dense_and_random(runs):
    found = compare([runs])
    by_name = {(d.cell.label, d.baseline.name): d.result for d in found.differences}
    assert len(by_name) == 8 - 2  # a baseline is not compared with itself
    result = by_name["magnitude sparsity=0.8", "dense"]
    assert (result.count, result.mean) == (3, pytest.approx(-1.1))  # -1.0, -1.1, -1.2 points
    assert result.deviation == pytest.approx(0.1)
    assert by_name["magnitude sparsity=0.9", "random_subnetwork"].mean == pytest.approx(4.0)
    table = difference_table(found.study, found.differences)
    assert (
        "magnitude",
        "0.8",
        "dense",
        "3",
        "-1.10",
        "-1.35 to -0.85",
        "too few",
        "0.33",
        "3",
    ) in (table.rows)  # -1.1 +- 4.303 * 0.1 / sqrt(3); 3.264 * 0.1


def test_differences_that_all_agree_promise_nothing():
    row = difference_row(paired_difference([100 * 0.87 - 100 * 0.86, 100 * 0.57 - 100 * 0.56]))
    assert row == ("2", "+1.00", "no spread", "too few", "-", "-")


def test_results_are_in_percent_with_their_deviation(runs):
    study = open_study([runs])
    assert accuracy(study.cells[0], "test_top1").mean == pytest.approx(91)
    rows = cell_table(study, "test_top1").rows
    assert rows[0][:5] == ("dense", "-", "3", "91.00 ± 1.00", "0.00%")


def test_any_paths_lead_to_the_same_study(runs):
    folders = sorted(path for path in runs.iterdir())
    one_by_one = open_study(folders)
    (runs / "latest").symlink_to("dense-0")
    assert open_study([runs, folders[0]]).cells == one_by_one.cells
    assert open_study([runs]).cells == one_by_one.cells


def test_the_path_of_a_source_does_not_tell_seeds_apart(tmp_path):
    for sparsity in (0.8, 0.9):
        for seed in (0, 1):
            source = make_run(
                tmp_path / f"s{sparsity}-{seed}",
                seed=seed,
                strategies=magnitude(sparsity),
                result=report(0.9),
            )
            make_run(
                tmp_path / f"o{sparsity}-{seed}",
                seed=seed,
                strategies=f"[{{name: optimal_subnetwork, source: {source}}}]",
                result=report(0.9),
            )
    study = open_study([tmp_path])
    assert study.arms == ("optimal_subnetwork", "magnitude")
    assert study.axes == {"sparsity": ("0.8", "0.9")}
    assert [(c.arm, dict(c.labels), list(c.runs)) for c in study.cells][:2] == [
        ("optimal_subnetwork", {"sparsity": "0.8"}, [0, 1]),
        ("optimal_subnetwork", {"sparsity": "0.9"}, [0, 1]),
    ]
    assert study.recipes["optimal_subnetwork"]["strategies.0.source"] == "the run of magnitude"


def test_a_source_that_is_gone_is_no_crash(tmp_path):
    text = "[{name: optimal_subnetwork, source: gone/latest}]"
    make_run(tmp_path / "a", strategies=text, result=report(0.9))
    assert open_study([tmp_path]).arms == ("optimal_subnetwork",)


def test_names_logging_and_places_do_not_set_runs_apart(tmp_path):
    make_run(tmp_path / "a", name="one", seed=0, result=report(0.9))
    folder = make_run(tmp_path / "b", name="two", seed=1, result=report(0.8))
    text = (folder / "resolved.yaml").read_text()
    text = text.replace("root: data", "root: elsewhere").replace("every: 10st", "every: 7st")
    (folder / "resolved.yaml").write_text(text)
    assert [list(cell.runs) for cell in open_study([tmp_path]).cells] == [[0, 1]]


def test_of_equal_runs_the_newest_that_finished_counts(tmp_path):
    make_run(tmp_path / "20260101T000000Z-a", result=report(0.1))
    make_run(tmp_path / "20260102T000000Z-a", result=report(0.2))
    make_run(tmp_path / "20260103T000000Z-a")
    study = open_study([tmp_path])
    assert study.cells[0].values("accuracy", "test_top1") == {0: 0.2}
    assert study.repeated == 2
    assert any("2 more runs repeat" in text for text in notices(study))


def test_runs_on_other_data_are_told(tmp_path):
    for number, kind in enumerate((magnitude(0.8), random(0.8), "[]")):
        folder = make_run(tmp_path / str(number), strategies=kind, result=report(0.9))
        write_json(folder / "manifest.json", {"data": "one" if number else "other"})
    assert any("read different data" in text for text in notices(open_study([tmp_path])))
    write_json(folder.parent / "0" / "manifest.json", {"data": "one"})
    assert not any("read different data" in text for text in notices(open_study([tmp_path])))


def test_missing_seeds_and_unfinished_runs_are_listed(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", seed=seed, result=report(0.9))
    make_run(tmp_path / "b0", lr="0.1", result=report(0.8))
    stopped = {"status": "stopped", "message": "asked to stop", "step": 7}
    make_run(tmp_path / "b1", seed=1, lr="0.1", status=stopped)
    (make_run(tmp_path / "c0", lr="0.2") / "status.json").write_text("{broken")
    study = open_study([tmp_path])
    assert [str(tmp_path / "b1") in line for line in study.missing].count(True) == 1
    assert f"{tmp_path / 'b1'}: stopped: asked to stop" in study.missing
    assert "dense lr=0.1: no finished run with seed 1" in study.missing
    assert any("c0/status.json: corrupt" in line for line in study.missing)


@pytest.mark.parametrize(
    ("strategies", "dense", "random"),
    [
        ([magnitude(0.8), random(0.8)], True, False),
        ([magnitude(0.8), "[]"], False, True),
        ([magnitude(0.8)], True, True),
        ([magnitude(0.8), random(0.8), "[]"], False, False),
        (["[]"], False, False),  # nothing is pruned
    ],
)
def test_missing_baselines_are_told(tmp_path, strategies, dense, random):
    for i, text in enumerate(strategies):
        make_run(tmp_path / str(i), strategies=text, result=report(0.9))
    told = notices(open_study([tmp_path]))
    assert any("No dense baseline" in text for text in told) is dense
    assert any("No random baseline" in text for text in told) is random
    assert "One seed: a difference between single runs may be chance alone." in told


def test_arms_of_several_models_are_told(tmp_path):
    make_run(tmp_path / "a", result=report(0.9))
    folder = make_run(tmp_path / "b", strategies=magnitude(0.8), result=report(0.9))
    assert not any("several" in text for text in notices(open_study([tmp_path])))
    recipe = folder / "resolved.yaml"
    recipe.write_text(recipe.read_text().replace("name: mlp", "name: resnet"))
    read_recipe.cache_clear()
    assert any("of several models" in text for text in notices(open_study([tmp_path])))


def test_warnings_that_differ_in_numbers_alone_are_one(tmp_path):
    for seed in range(3):
        result = report(0.9)
        result["warnings"] = [
            f"blocks.{seed}.fc.weight: {seed} of 1,300 rows are empty",
            "blocks.0.fc.weight: 8 of 900 rows are empty",
            f"step 12: lr is {seed}.5",
        ]
        make_run(tmp_path / str(seed), seed=seed, result=result)
    assert sorted(warnings(open_study([tmp_path]))) == [
        ("blocks.N.fc.weight: 0 to 8 of 900 to 1,300 rows are empty", 3),
        ("step 12: lr is 0.5 to 2.5", 3),
    ]


def test_many_seeds_are_told_as_a_range(tmp_path):
    for seed in (0, 1, 2, 3, 4, 7, 9):
        make_run(tmp_path / str(seed), seed=seed, result=report(0.9))
    assert "; seeds: 0 to 4, 7, 9; " in conditions(open_study([tmp_path]))


@pytest.mark.parametrize(
    "result",
    [
        {"status": "done"},
        {"accuracy": {"test_top1": None}, "macs": None, "warnings": "none"},
        {"accuracy": {"validation_top1": 0.5}, "train": {"flops": "many"}},
        {"accuracy": [1, 2], "sparsity": 3, "environment": 0},
        {"accuracy": {"test_top1": float("inf")}},
    ],
)
def test_ragged_reports_are_no_crash(tmp_path, result):
    folder = make_run(tmp_path / "a", status={"status": "done"})
    (folder / "report.json").write_text(json.dumps(result))
    make_run(tmp_path / "b", lr="0.1", seed=1, result=report(0.9, tokens=4))
    found = compare([tmp_path])
    document = report_of(found)
    assert len(document.tables[0].rows) == 2
    assert found.key == "test_top1"


def test_nothing_finished_is_said(tmp_path):
    make_run(tmp_path / "a")
    document = report_of(compare([tmp_path]))
    assert document.notices[0] == "No run has finished: there is nothing to compare yet."
    assert document.missing == (f"{tmp_path / 'a'}: running",)


def test_paths_that_hold_no_run_are_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: no such folder: give run directories"):
        open_study([tmp_path / "gone"])
    with pytest.raises(CheckpointError, match="no run directory in it"):
        open_study([tmp_path])
    broken = tmp_path / "a"
    broken.mkdir()
    for text in ("- a list", "\0", "a: [", "key: &x 1"):
        (broken / "resolved.yaml").write_text(text)
        if text != "key: &x 1":  # a recipe of another version is read as far as it goes
            with pytest.raises(CheckpointError, match="no run that can be read"):
                open_study([tmp_path])


def test_a_baseline_is_an_arm_or_a_label(runs):
    study = open_study([runs])
    assert chosen_baselines(study, ("magnitude",)) == [Baseline("magnitude", arm="magnitude")]
    by_axis = chosen_baselines(study, ("sparsity=0.8",))
    found = list(differences(study, by_axis, "test_top1"))
    assert [d.cell.label for d in found] == [
        "magnitude sparsity=0.9",
        "random_subnetwork sparsity=0.9",
    ]
    assert found[0].result.mean == 0
    with pytest.raises(UsageError, match=r"magnitud: no such arm.*magnitude"):
        chosen_baselines(study, ("magnitud",))
    with pytest.raises(UsageError, match=r"sparsity=0\.7"):
        chosen_baselines(study, ("sparsity=0.7",))


def test_compression_is_judged_against_none(tmp_path):
    for ratio in (0, 0.5):
        text = f"[{{name: tome, ratio: {ratio}}}]"
        make_run(
            tmp_path / f"r{ratio}",
            compressors=text,
            result=report(0.9, tokens=16 - int(ratio * 16)),
        )
    assert [b.name for b in chosen_baselines(open_study([tmp_path]))] == ["ratio=0"]
    other = tmp_path / "other"
    make_run(other / "none", strategies=magnitude(0.8), result=report(0.9, 0.8, tokens=16))
    drop = "[{name: random_drop, ratio: 0.5}]"
    make_run(
        other / "drop",
        strategies=magnitude(0.8),
        compressors=drop,
        result=report(0.9, 0.8, tokens=8),
    )
    study = open_study([other])
    assert len(study.arms) == 2
    [baseline] = chosen_baselines(study)
    [judged] = [cell for cell in study.cells if cell.arm != baseline.arm]
    assert judged.values("tokens", "after") == {0: 8}


def test_arms_are_called_after_what_differs(tmp_path):
    flats = [
        {"strategies.0.name": "magnitude", "strategies.0.mode": "ste", "a.x": 1},
        {"strategies.0.name": "magnitude", "strategies.0.mode": "hard", "a.x": 1},
        {"strategies.0.name": "random_subnetwork", "a.x": 1},
        {"strategies": [], "a.x": 1},
    ]
    names = ["magnitude mode=ste", "magnitude mode=hard", "random_subnetwork", "dense"]
    assert arm_names(flats) == names
    told = distinctions(dict(zip(names, flats, strict=True)))
    assert told["random_subnetwork"] == {"strategies.0.name": "random_subnetwork"}
    assert told["dense"] == {"strategies": "[]"}  # what a strategy would have is no news


def test_what_another_component_has_not_is_no_difference():
    distill = {"loss.name": "distill", "loss.teacher": "run a", "loss.hard.name": "bce", "lr": 1}
    plain = {"loss.name": "cross_entropy", "loss.label_smoothing": 0.1}
    told = distinctions({"a": distill, "b": {**distill, "loss.teacher": "run b"}, "c": plain})
    assert told["c"] == {
        "loss.name": "cross_entropy",
        "loss.label_smoothing": "0.1",
        "lr": "-",
    }


def test_keys_are_cut_to_what_tells_them_apart():
    keys = [
        "strategies.0.schedule.name",
        "strategies.0.schedule.stop",
        "strategies.0.cadence.stop",
        "phases.1.name",
    ]
    assert list(short_keys(keys).values()) == [
        "schedule",
        "schedule.stop",
        "cadence.stop",
        "phases.1",
    ]


value = st.one_of(st.integers(0, 2), st.sampled_from(["a", "b", None, True, [1]]))
flat = st.dictionaries(st.sampled_from(["s.0.x", "s.0.y", "t.x", "u", "strategies.0.name"]), value)


@given(
    flats=st.lists(flat, min_size=1, max_size=6, unique_by=lambda f: json.dumps(f, sort_keys=True))
)
def test_different_settings_have_different_names(flats):
    names = arm_names(flats)
    assert len(set(names)) == len(flats)
    for key in swept_numbers(flats):
        assert len({f[key] for f in flats if isinstance(f.get(key), int)}) > 1


@given(labels=st.lists(st.sampled_from(["0.9", "0.10", "1e-3", "10", "a", "b"])))
def test_labels_stand_in_the_order_of_their_size(labels):
    ordered = in_order(labels)
    numbers = [float(label) for label in ordered if label not in "ab"]
    assert numbers == sorted(numbers)
    assert set(ordered) == set(labels)


def test_a_sweep_is_read_as_planned(tmp_path):
    study = open_study([make_sweep(tmp_path)])
    assert (study.name, study.arms, study.axes) == (
        "demo",
        ("iterative", "dense"),
        {"ratio": ("0", "0.4")},
    )
    seeds = {cell.label: list(cell.runs) for cell in study.cells}
    assert seeds == {
        "iterative ratio=0": [0, 1],
        "iterative ratio=0.4": [],
        "dense ratio=0": [0, 1],
        "dense ratio=0.4": [0, 1],  # the one run serves both
    }
    assert study.missing == (
        "iterative/ratio=0.4,seed=0: failed: not finite",
        "iterative/ratio=0.4,seed=1: not run yet",
    )
    assert len(study.runs) == 4


def test_a_corrupt_cell_of_a_sweep_does_not_hide_the_others(tmp_path):
    folder = make_sweep(tmp_path)
    (folder / "cells" / "dense-0-0.json").write_text("{broken")
    study = open_study([folder])
    (line,) = (line for line in study.missing if "dense-0-0.json" in line)
    assert line.startswith("dense/ratio=0,seed=0: failed: ")
    assert "delete it to run the cell again" in line
    assert sum(len(cell.runs) for cell in study.cells) == 4  # two of iterative, one dense twice


def test_runs_of_a_sweep_may_also_be_read_without_its_plan(tmp_path):
    folder = make_sweep(tmp_path)
    os.remove(folder / "plan.json")
    assert open_study([folder]).arms == ("dense", "magnitude")


def test_two_baselines_meet_once(runs):
    pairs = [(d.cell.arm, d.baseline.name) for d in compare([runs]).differences]
    assert ("random_subnetwork", "dense") in pairs
    assert ("dense", "random_subnetwork") not in pairs
    by_axis = compare([runs], ("random_subnetwork", "sparsity=0.8")).differences
    assert ("random_subnetwork", "sparsity=0.8") in [(d.cell.arm, d.baseline.name) for d in by_axis]


def test_a_sweep_names_the_arm_that_a_run_was_made_from(tmp_path):
    folder = make_sweep(tmp_path)
    text = f"[{{name: optimal_subnetwork, source: {folder / 'runs' / 'iterative-0-0'}}}]"
    recipe = folder / "runs" / "dense-0-0" / "resolved.yaml"
    recipe.write_text(recipe.read_text().replace("strategies: []", f"strategies: {text}"))
    recipes = open_study([folder]).recipes
    assert recipes["dense"]["strategies.0.source"] == "the run of iterative"


def watched(folder):
    """The sweep with one more dense arm, to be watched by other probes."""
    plan = json.loads((folder / "plan.json").read_text())
    cells = [cell for cell in plan["cells"] if cell["arm"] == "dense"]
    again = [{**cell, "arm": "watched", "id": "watched" + cell["id"]} for cell in cells]
    plan["cells"] += again
    write_json(folder / "plan.json", {**plan, "arms": [*plan["arms"], "watched"]})
    return open_study([folder])


def test_an_arm_that_repeats_another_is_compared_and_drawn_once(tmp_path):
    study = watched(make_sweep(tmp_path))
    assert "watched" in study.arms
    assert [b.name for b in chosen_baselines(study)] == ["dense", "ratio=0"]
    found = differences(study, [Baseline("iterative", arm="iterative")], "test_top1")
    assert {one.cell.arm for one in found} == {"dense"}
    assert {p.arm for p in points_of(study, COSTS[0], "test_top1")} == {"iterative", "dense"}
    assert any("The runs of watched repeat" in text for text in notices(study))


def test_an_arm_that_repeats_another_in_part_is_none(tmp_path):
    """One reading of a ratio may share the run at 0 with another, and no more."""
    study = watched(make_sweep(tmp_path))
    (first, *others) = study.arm_cells("watched")
    longer = {seed: replace(run, recipe=run.recipe | {"threads": 9}) for seed, run in
              first.runs.items()}  # fmt: skip
    kept = [cell for cell in study.cells if cell.arm != "watched"]
    study = replace(study, cells=(*kept, replace(first, runs=longer), *others))
    assert repeating(study, study.arms) == []


def test_the_cells_of_a_sweep_stand_in_the_order_of_its_labels(tmp_path):
    folder = make_sweep(tmp_path)
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "plan.json", {**plan, "cells": plan["cells"][::-1]})
    labels = [cell.label for cell in open_study([folder]).cells]
    assert labels == [
        "iterative ratio=0",
        "iterative ratio=0.4",
        "dense ratio=0",
        "dense ratio=0.4",
    ]


def test_a_run_of_other_data_is_no_repetition(tmp_path):
    for name, data in (("a", "x"), ("b", "y"), ("c", "y")):
        folder = make_run(tmp_path / name, result=report(0.9))
        write_json(folder / "manifest.json", {"data": data})
    told = [line for line in open_study([tmp_path]).missing if "other data" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path / 'a'}: left out")


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (
            {"compressors": []},
            {"compressors": [{"name": "tome", "ratio": 0.5}]},
            ["dense compressors=[]", "dense compressors=tome"],
        ),
        ({"ema": None}, {"ema": {"decay": 0.9}}, ["dense ema=null", "dense ema.decay=0.9"]),
        (
            {"phases": [{"length": "1ep"}]},
            {"phases": [{"length": "2ep"}]},
            ["dense length=1ep", "dense length=2ep"],
        ),
        (
            {"phases": [{"lr_schedule": None}]},
            {"phases": [{"lr_schedule": {"name": "cosine"}}]},
            ["dense phases.0.lr_schedule=null", "dense phases.0.lr_schedule=cosine"],
        ),
        (
            {"data": {"augment": ["flip", "crop"]}},
            {"data": {"augment": [{"name": "mixup", "alpha": 0.8}, "flip"]}},
            ["dense augment=[flip, crop]", "dense augment=[mixup, flip]"],
        ),
        (
            {"data": {"augment": ["flip", {"name": "rand_augment", "ops": 2}]}},
            {"data": {"augment": ["flip", {"name": "rand_augment", "ops": 3}]}},
            ["dense ops=2", "dense ops=3"],
        ),
    ],
)
def test_runs_that_differ_in_one_key_are_both_named_by_it(first, second, names):
    assert arm_names([settings(first), settings(second)]) == names
    assert arm_names([settings(second), settings(first)]) == names[::-1]
