"""What others published for the arms of a sweep: read, checked, and beside the measured values."""

import csv
import json
from pathlib import Path

import pytest

from prunekit.cli import main
from prunekit.errors import RecipeError, UsageError
from prunekit.recipe.find import shipped_sweeps
from prunekit.report.document import compare, report_of
from prunekit.report.spreadsheet import cell_rows
from prunekit.report.tables import cell_table
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.plan import make_plan
from prunekit.sweep.published import read_published
from tests.support.made_runs import make_comparison

TABLE = "arm,sparsity,accuracy,deviation,source\nmagnitude,0.80,92.7,.28,a paper\ndense,,95,,\n"


@pytest.fixture
def paper(tmp_path):
    def write(text=TABLE):
        (tmp_path / "paper.csv").write_text(text)
        return tmp_path / "paper.csv"

    return write


def test_published_values_stand_beside_the_measured_ones(tmp_path, paper, capsys):
    runs = make_comparison(tmp_path / "runs")
    found = compare([runs], reference=paper(TABLE + "nobody,0.8,50,,\n"))
    table = cell_table(found.study, found.key, found.published)
    at = table.columns.index("published, %")
    assert table.columns[at - 1] == "test accuracy, %"
    shown = {(row[0], row[1]): row[at] for row in table.rows}
    assert shown["magnitude", "0.8"] == "92.7 ± .28"
    assert shown["dense", "-"] == "95"
    assert {value for place, value in shown.items() if place[1] == "0.9"} == {"-"}
    report = report_of(found)
    assert "paper.csv (a paper): data, settings or splits may differ" in report.notices[-1]
    assert "paper.csv: nobody 0.8: no cell has this arm and these labels" in report.missing
    [row] = [r for r in cell_rows(found.study, found.key, found.published)
             if (r["arm"], r["sparsity"]) == ("magnitude", "0.8")]  # fmt: skip
    assert (row["published_percent"], row["published_deviation"]) == (92.7, 0.28)
    with pytest.raises(SystemExit):
        main(["report", str(runs), "--reference", str(paper()), "--json", "--out", str(tmp_path)])
    told = json.loads(capsys.readouterr().out)
    assert "published, %" in told["tables"]["Results"][0]
    with (tmp_path / "cells.csv").open() as file:
        assert {r["published_source"] for r in csv.DictReader(file)} == {"a paper", ""}


def test_a_report_without_published_values_has_no_column_for_them(tmp_path):
    found = compare([make_comparison(tmp_path / "runs")])
    assert "published, %" not in cell_table(found.study, found.key, found.published).columns
    assert not any("Published" in notice for notice in report_of(found).notices)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("arm,top1\na,1\n", "no column is called 'accuracy'"),
        ("arm,accuracy,sparsty\na,1,2\n", "column 'sparsty' is no axis of the sweep.*sparsity"),
        ("arm,accuracy\na,much\n", "row 2: accuracy is 'much': give percent"),
        ("arm,accuracy\na,nan\n", "row 2: accuracy is 'nan'"),
        ("arm,accuracy,deviation\na,90,-1\n", "row 2: deviation is '-1'"),
        ("arm,accuracy\na,90\na,91\n", "row 3: a second value for a"),
        ("arm,sparsity,accuracy\na,0.8,90\na,0.80,91\n", "row 3: a second value for a 0.8"),
        ("arm,accuracy\na\n", "row 2 does not fit"),
    ],
)
def test_a_bad_file_is_one_line(paper, text, told):
    with pytest.raises(UsageError, match=told) as caught:
        read_published(paper(text), ["strategies.0.sparsity", "seed"])
    assert "\n" not in str(caught.value)


SWEEP = "name: s\nrecipe: quickstart\nreference: paper.csv\narms: {mine: {}}\naxes: {seed: 0..1}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "s.yaml:3:12 reference: .*paper.csv: No such file"),
        ("arm,accuracy\nmime,90\n", "has no arm 'mime'.*mine"),
        ("arm,accuracy\nmine,?\n", "row 2: accuracy"),
    ],
)
def test_a_sweep_names_its_file_and_a_bad_one_is_one_line(tmp_path, paper, text, told):
    (tmp_path / "s.yaml").write_text(SWEEP)
    if text is not None:
        paper(text)
    with pytest.raises(RecipeError, match=told) as caught:
        read_command_line(str(tmp_path / "s.yaml"))
    assert "\n" not in str(caught.value)


def test_a_reference_changes_no_key_and_lies_in_the_directory(
    tmp_path, paper, monkeypatch, commands
):
    monkeypatch.chdir(tmp_path)
    paper("arm,accuracy,source\nmine,90,a paper\n")
    Path("s.yaml").write_text(SWEEP)
    Path("plain.yaml").write_text(SWEEP.replace("reference: paper.csv\n", ""))
    plans = [make_plan(read_command_line(f"{name}.yaml").design) for name in ("s", "plain")]
    assert [cell.key for cell in plans[0].cells] == [cell.key for cell in plans[1].cells]
    small = ["phases.0.length=2st", "data.train_limit=64", "data.test_limit=32", "seed=0"]
    ended = commands("sweep", "s.yaml", *small)
    assert ended.code == 0, ended.text
    found = compare([Path("sweeps/s")])
    assert [row[3] for row in cell_table(found.study, found.key, found.published).rows] == ["90"]


@pytest.mark.parametrize(
    ("name", "own"),
    [("wrn22_cifar_rigl", {"dense"}), ("wrn22_cifar_rigl_cpu", {"dense", "rigl_40"})],
)
def test_the_public_table_is_that_of_the_paper(name, own):
    """Copied by hand from arXiv:2103.15767; every published row is an arm."""
    request = read_command_line(name)
    cells = make_plan(request.design).cells
    rows = {row["arm"]: row for row in csv.DictReader(request.reference.splitlines())}
    assert {arm: float(row["accuracy"]) for arm, row in rows.items()} == {
        "small_dense": 91.0, "static": 91.2, "set": 92.7, "rigl": 92.6, "set_erk": 92.9,
        "rigl_erk": 93.1, "pruning": 93.2,
    }  # fmt: skip
    assert {cell.arm for cell in cells} == rows.keys() | own
    assert len({cell.key for cell in cells}) == 3 * len(rows.keys() | own)
    pruned = [cell.recipe for cell in cells if cell.recipe.strategies]
    assert {recipe.strategies[0].sparsity for recipe in pruned} == {0.8}
    for recipe in pruned:
        assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (0.1, 5e-4)
        assert recipe.data.batch_size == 128
    assert shipped_sweeps()[name].with_name("wrn22_cifar_rigl.csv").is_file()
