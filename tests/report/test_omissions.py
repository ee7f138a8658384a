"""Whatever a report leaves out is told: in its tables, at its end, in its files."""

import json
import os

import pytest
from click.testing import CliRunner

from prunekit.cli.app import cli
from prunekit.cli.common import Options
from prunekit.report.document import compare, report_of, with_pictures
from prunekit.report.figures.all import (
    MOST_BURDENS,
    MOST_GRIDS,
    WantedPictures,
    pictures,
    plan_drawings,
    undrawn,
)
from prunekit.report.mask_overlap import in_one_alone
from prunekit.report.spreadsheet import cell_rows, difference_rows
from prunekit.runs.logged import Logged
from prunekit.runs.mask_files import write_masks
from tests.support.made_runs import magnitude, make_comparison, make_run, make_sweep, random, report

NAN = float("nan")


def rewrite(run, change):
    """Change the report of a run; NaN may stand in it, as other programs write it."""
    path = run / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def row(found, label):
    (table,) = (t for t in report_of(found).tables if t.title == "Results")
    return next(row for row in table.rows if " ".join(row[:2]) == label)


# --- numbers that are missing or not finite


@pytest.mark.parametrize("value", [NAN, float("inf"), None, "0.9", True])
def test_a_seed_without_an_accuracy_has_no_part_in_a_mean_and_is_told(tmp_path, value):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    rewrite(runs / "magnitude-0.8-1", lambda d: d["accuracy"].update(test_top1=value))
    found = compare([runs])
    assert row(found, "magnitude 0.8")[2:4] == ("1 of 2", "89.00")  # 90 less 1, of seed 0
    assert row(found, "magnitude 0.9")[2:4] == ("2", "89.45 ± 0.64")
    line = "magnitude sparsity=0.8: seed 1 has no finite test_top1: left out of the mean"
    made = report_of(found)
    assert line in made.missing
    assert "1 thing is missing or left out: see the list below." in made.notices
    cell = next(r for r in cell_rows(found.study, found.key) if r["sparsity"] == "0.8")
    assert (cell["arm"], cell["seeds"], cell["seeds_with_accuracy"]) == ("magnitude", 2, 1)
    pairs = {
        (one["arm"], one["sparsity"], one["against"]): (one["pairs"], one["seeds"])
        for one in difference_rows(found.study, found.differences)
    }
    assert pairs["magnitude", "0.8", "dense"] == (1, 2)
    assert pairs["magnitude", "0.9", "dense"] == (2, 2)
    (table,) = (t for t in made.tables if t.title == "Differences")
    assert [r[3] for r in table.rows if r[:3] == ("magnitude", "0.8", "dense")] == ["1 of 2"]


def test_a_cell_without_any_accuracy_is_told(tmp_path):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    for seed in (0, 1):
        rewrite(runs / f"random-0.9-{seed}", lambda d: d.pop("accuracy"))
    found = compare([runs])
    assert row(found, "random_subnetwork 0.9")[2:4] == ("0 of 2", "-")
    made = report_of(found)
    assert (
        "random_subnetwork sparsity=0.9: seed 0, 1 has no finite test_top1: left out of the mean"
    ) in made.missing


@pytest.mark.parametrize(
    ("keys", "name", "shown"),
    [
        (("macs", "executed"), "macs_executed", "1.00 k (1 of 2)"),
        (("macs", "theoretical"), "macs_theoretical", "201 (1 of 2)"),
        (("sparsity", "scope"), "sparsity_in_scope", "80.00% (1 of 2)"),
        (("train", "flops"), "training_flops", "6.00 G (1 of 2)"),
        (("train", "wall_seconds"), "training_seconds", ""),
    ],
)
def test_each_mean_says_of_how_many_runs_it_is(tmp_path, keys, name, shown):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    rewrite(runs / "magnitude-0.8-0", lambda d: d[keys[0]].update({keys[1]: NAN}))
    found = compare([runs])
    assert shown in ("", *row(found, "magnitude 0.8"))
    lines = [line for line in report_of(found).missing if "magnitude sparsity=0.8" in line]
    assert lines == [f"magnitude sparsity=0.8: seed 0 has no finite {name}: left out of the mean"]


def test_whole_runs_leave_nothing_to_tell(tmp_path):
    found = compare([make_comparison(tmp_path / "runs")])
    drawings = plan_drawings(found.study, WantedPictures())
    drawn = [*pictures(found, drawings, None)]
    made = with_pictures(report_of(found), drawn, undrawn(found.study, drawings, None))
    assert made.missing == made.notices == ()
    assert all(one.left_out == "" for one in drawn)


# --- runs that are not there, or that nothing shows


def no_marks(folder):
    (folder / "magnitude-0.8-1" / "resolved.yaml").unlink()


def corrupt(folder):
    (folder / "magnitude-0.8-1" / "report.json").write_text("{")


def unfinished(folder):
    (folder / "magnitude-0.8-1" / "report.json").unlink()
    (folder / "magnitude-0.8-1" / "status.json").write_text('{"status": "stopped", "message": "x"}')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_marks, "has report.json but no resolved.yaml: left out"),
        (corrupt, "report.json: corrupt: not a JSON document"),
        (unfinished, "magnitude-0.8-1: stopped: x"),
    ],
)
def test_a_run_that_does_not_count_is_told_with_its_seed(tmp_path, change, said):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    (runs / "magnitude-0.8-1" / "metrics.jsonl").unlink()
    change(runs)
    lines = report_of(compare([runs])).missing
    assert any("magnitude-0.8-1" in line and said in line for line in lines)
    assert "magnitude sparsity=0.8: no finished run with seed 1" in lines


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    runs = make_comparison(tmp_path / "runs", seeds=1)
    (runs / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    lines = report_of(compare([runs])).missing
    assert lines == (f"{runs / 'closed'}: Permission denied: runs in it are left out",)


def test_runs_of_a_sweep_that_no_cell_has_are_told(tmp_path):
    sweep = make_sweep(tmp_path)
    for name in ("a", "b"):
        make_run(sweep / "runs" / "made" / name, seed=7, result=report(0.9))
    lines = report_of(compare([sweep])).missing
    assert (
        f"2 runs of an earlier plan or try: left out: {sweep / 'runs' / 'made' / 'a'}, .." in lines
    )


def test_runs_of_a_sweep_with_one_seed_at_one_place_are_told(tmp_path):
    """The axis is called seed, and sets another: the recipes have the same one."""
    sweep = make_sweep(tmp_path)
    for number in (0, 1):
        path = sweep / "runs" / f"dense-0-{number}" / "resolved.yaml"
        path.write_text(path.read_text().replace("seed: 1", "seed: 0"))
    lines = report_of(compare([sweep])).missing
    left, taken = (sweep / "runs" / f"dense-0-{number}" for number in (0, 1))
    assert f"{left}: left out: {taken} has its arm, its labels and its seed" in lines


def test_cells_without_their_baseline_are_told(tmp_path):
    for sparsity in (0.8, 0.9):
        make_run(tmp_path / f"m{sparsity}", strategies=magnitude(sparsity), result=report(0.9))
    make_run(tmp_path / "r", strategies=random(0.8), result=report(0.8))
    make_run(tmp_path / "d", result=report(0.8))
    lines = report_of(compare([tmp_path])).missing
    assert lines == (
        "not compared with random_subnetwork, which has nothing at their place: magnitude "
        "sparsity=0.9",
    )
    lines = report_of(compare([tmp_path], ("sparsity=0.9",))).missing
    assert lines == (
        "not compared with sparsity=0.9, which has nothing at their place: random_subnetwork "
        "sparsity=0.8",
    )


# --- pictures


def drawn(paths, wanted=None, against=None):
    """The pictures by name, and the whole report."""
    found = compare(paths)
    drawings = plan_drawings(found.study, wanted or WantedPictures(against=against))
    made = [*pictures(found, drawings, against)]
    whole = with_pictures(report_of(found), made, undrawn(found.study, drawings, against))
    return {one.name: one for one in made}, whole


def relog(run, change):
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in filter(None, map(change, lines))))


def without(key, *steps):
    def change(line):
        return {k: v for k, v in line.items() if k != key or (steps and line["step"] not in steps)}

    return change


def nulled(key, *steps):
    return lambda line: {**line, key: None} if line["step"] in steps else line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("train/loss"), "Not of all seeds: magnitude sparsity=0.8 (1 of 2)."),
        (without("train/loss", 3, 4), "Without 2 steps that not all seeds have a value of."),
        (
            nulled("train/loss", 5),
            "Without 1 value not finite. Without 1 step that not all seeds have a value of.",
        ),
    ],
)
def test_a_curve_says_what_it_leaves_out(tmp_path, change, said):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    relog(runs / "magnitude-0.8-0", change)
    found, whole = drawn([runs])
    picture = found["curve-train-loss"]
    assert picture.left_out == said
    assert picture.told.endswith(said)
    assert f"picture curve-train-loss: {said}" in whole.missing
    assert "1 line below on what the pictures leave out." in whole.notices


def test_cells_that_logged_nothing_are_named_below_the_curve(tmp_path):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    found, _ = drawn([runs], WantedPictures(curves=("sparsity/achieved",)))
    told = found["curve-sparsity-achieved"].told
    assert told.endswith("Not drawn, as too little was logged: dense.")


def test_runs_of_several_losses_have_a_picture_of_each(tmp_path):
    lines = [{"step": step, "train/loss": 1.0 / step, "eval/test_top1": 0.5} for step in (1, 2, 3)]
    taught = "{{name: distill, teacher: runs/{}, alpha: {}}}".format
    losses = ["cross_entropy", taught("a", 0.5), taught("b", 0.5), taught("a", 0.9)]
    for seed, loss in enumerate(losses):
        folder = make_run(tmp_path / str(seed), seed=seed, result=report(0.9), lines=lines)
        with (folder / "resolved.yaml").open("a") as file:
            file.write(f"loss: {loss}\n")
    found, _ = drawn([tmp_path])
    shown = {name for name in found if name.startswith("curve")}
    assert shown == {
        "curve-train-loss-cross-entropy",
        "curve-train-loss-distill-alpha-0-5",
        "curve-train-loss-distill-alpha-0-9",
        "curve-eval-test-top1",
    }
    assert "Of the runs that minimise distill, alpha 0.5" in (
        found["curve-train-loss-distill-alpha-0-5"].caption
    )


def test_a_curve_that_cannot_be_drawn_is_told(tmp_path):
    for seed in (0, 1):
        lines = [{"step": 2 * step + seed, "train/loss": 1.0} for step in range(1, 9)]
        make_run(tmp_path / str(seed), seed=seed, result=report(0.9), lines=lines)
    found, whole = drawn([tmp_path])
    assert "curve-train-loss" not in found
    assert (
        "train/loss: not drawn: the runs of no cell have enough of it in common"
    ) in whole.missing


def test_logs_that_cannot_be_read_are_told(tmp_path):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    gone, torn = (runs / f"dense-{seed}" / "metrics.jsonl" for seed in (0, 1))
    gone.unlink()
    torn.write_text(torn.read_text() + '[1]\n{"step": "x"}\n{"step": 30, "tr')
    _, whole = drawn([runs])
    assert f"{gone}: No such file or directory: no curve of this run" in whole.missing
    assert f"{torn}: 3 lines cannot be read" in whole.missing


def test_costs_name_the_cells_that_have_no_such_number(tmp_path):
    for number, tokens in enumerate((8, 12, None)):
        make_run(
            tmp_path / str(number),
            strategies=magnitude(0.8),
            compressors="[]" if tokens is None else f"[{{name: tome, ratio: 0.{number}}}]",
            result=report(0.9, 0.8, tokens),
        )
    found, _ = drawn([tmp_path])
    assert "Not in Tokens, having no such number: magnitude compressors=[]." in found["costs"].told


def test_a_pruned_run_without_a_sparsity_is_not_drawn_at_none(tmp_path):
    """A dense run has no sparsity in scope, and stands at 0; a pruned one does not."""
    runs = make_comparison(tmp_path / "runs", seeds=1)
    rewrite(runs / "magnitude-0.8-0", lambda d: d["sparsity"].update(scope=NAN))
    found, _ = drawn([runs])
    assert "Not in Sparsity, having no such number: magnitude sparsity=0.8." in found["costs"].told


def grid_of(folder, others=1, skip=()):
    for extra in range(others):
        for i, sparsity in enumerate((0.8, 0.9)):
            for j, lr in enumerate(("0.1", "0.2")):
                for seed in (0, 1):
                    if (extra, i, j, seed) not in skip:
                        make_run(
                            folder / f"{extra}-{i}-{j}-{seed}",
                            seed=seed,
                            strategies=magnitude(sparsity).replace("75%", f"{50 + extra}%"),
                            lr=lr,
                            result=report(0.9, sparsity),
                        )


def test_grids_count_what_they_lack(tmp_path):
    grid_of(tmp_path, skip={(0, 1, 1, 0), (0, 1, 1, 1)})
    found, _ = drawn([tmp_path])
    assert found["grid-1"].left_out == "1 place without an accuracy."


def test_a_gain_of_fewer_pairs_is_counted(tmp_path):
    sweep = make_sweep(tmp_path)
    plan = json.loads((sweep / "plan.json").read_text())
    assert plan["axes"]["ratio"] == ["0", "0.4"]
    for i, sparsity in enumerate((0.8, 0.9)):
        for j, lr in enumerate(("0", "0.2")):
            for seed in (0, 1):
                make_run(
                    tmp_path / "g" / f"{i}-{j}-{seed}",
                    seed=seed,
                    strategies=magnitude(sparsity),
                    lr=lr,
                    result=report(0.9, sparsity),
                )
    rewrite(tmp_path / "g" / "0-0-1", lambda d: d["accuracy"].update(test_top1=NAN))
    found, _ = drawn([tmp_path / "g"], WantedPictures(grid=("sparsity", "lr")))
    assert found["grid-1"].left_out == "1 gain of fewer pairs than the place has seeds."


def test_published_values_without_a_place_are_counted(tmp_path):
    grid_of(tmp_path / "runs")
    paper = tmp_path / "paper.csv"
    paper.write_text("sparsity,lr,top1\n0.8,0.1,90\n0.95,0.1,80\n0.8,0.3,70\n")
    wanted = WantedPictures(grid=("sparsity", "lr"), reference=paper)
    found, whole = drawn([tmp_path / "runs"], wanted)
    assert found["grid-1"].left_out == "2 of 3 published values have no place."
    assert "picture grid-1: 2 of 3 published values have no place." in whole.missing


@pytest.mark.slow
def test_grids_beyond_the_most_are_counted(tmp_path):
    grid_of(tmp_path, others=MOST_GRIDS + 1)
    study = compare([tmp_path]).study
    wanted = WantedPictures(grid=("sparsity", "lr"))
    found, _ = drawn([tmp_path], wanted)
    assert len(study.axes) >= 2
    grids = [name for name in found if name.startswith("grid")]
    assert len(grids) == MOST_GRIDS
    assert f"The first {MOST_GRIDS} of {MOST_GRIDS + 1} grids are drawn." in found["grid-1"].told


def test_burden_indicators_beyond_the_most_are_counted(tmp_path):
    keys = [f"probe/burden/x{i}/pooled" for i in range(MOST_BURDENS + 2)]
    lines = [{"step": step, **dict.fromkeys(keys, 1.0)} for step in (1, 2)]
    make_run(tmp_path / "a", result=report(0.9), lines=lines)
    study = compare([tmp_path]).study
    drawings = plan_drawings(study, WantedPictures())
    assert undrawn(study, drawings, None) == [
        "2 more burden indicators not drawn: --curve KEY names them"
    ]


def test_layers_that_one_run_masks_are_named(tmp_path):
    import torch

    kept = torch.ones(2, 2, dtype=torch.bool)
    for name, layers in (("a", ("x", "y", "z")), ("b", ("x", "w"))):
        folder = make_run(tmp_path / name, result=report(0.9))
        write_masks(folder / "masks.safetensors", dict.fromkeys(layers, kept))
    a, b = tmp_path / "a", tmp_path / "b"
    assert in_one_alone(a, b) == [
        f"{a} alone masks 2 parameters: not compared: y, ..",
        f"{b} alone masks 1 parameter: not compared: w",
    ]
    assert in_one_alone(a, a) == []


# --- everywhere that a report is read


def test_what_is_left_out_stands_on_the_screen_and_in_every_file(tmp_path):
    runs = make_comparison(tmp_path / "runs", seeds=2)
    rewrite(runs / "magnitude-0.8-1", lambda d: d["accuracy"].update(test_top1=NAN))
    relog(runs / "magnitude-0.8-0", nulled("train/loss", 5))
    out = tmp_path / "out"
    screen, document = (
        CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["report", str(runs), *how], obj=Options())
        for how in (["--out", str(out)], ["--json"])
    )
    assert (screen.exit_code, document.exit_code) == (0, 0)
    number = "magnitude sparsity=0.8: seed 1 has no finite test_top1: left out of the mean"
    curve = "Without 1 value not finite."
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    for place in (screen.output, page, text.replace("\\", "")):
        assert number in place
        assert curve in place
        assert "1 of 2" in place
    assert number in json.loads(document.stdout)["missing"]
    cells = (out / "cells.csv").read_text().splitlines()
    assert cells[0].split(",")[2:4] == ["seeds", "seeds_with_accuracy"]
    assert any(line.startswith("magnitude,0.8,2,1,") for line in cells)


def test_the_picture_of_a_run_counts_values_that_are_not_finite(tmp_path):
    from prunekit.report.figures import run as drawing

    lines = [{"step": step, "train/loss": None if step > 3 else 1.0} for step in range(1, 6)]
    figure = drawing_axis(drawing, Logged(lines))
    assert figure.get_legend_handles_labels()[1] == ["training (2 not finite)"]


def drawing_axis(drawing, log):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    drawing._curve(axis, log, "train/loss", "training")
    return axis
