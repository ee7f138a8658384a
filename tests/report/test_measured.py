"""Costs as measured: in the tables, the numbers and the picture, of runs old and new."""

import pytest

from prunekit.foundation.console import console
from prunekit.foundation.files import write_json
from prunekit.report.document import compare, report_of
from prunekit.report.figures.cost import cost_panels
from prunekit.report.saving import arrived
from prunekit.report.spreadsheet import cell_rows, run_rows
from prunekit.report.terminal import print_report
from tests.support.made_runs import magnitude, make_run, report

OLD = {"median_ms": 3.0, "iqr_ms": 0.1, "batch": 1, "device": "cpu", "threads": 1}


def timed(own, dense):
    return {"median_ms": own, "dense_ms": dense, "ratio": own / dense}


def new(accuracy, sparsity, own):
    return {
        **report(accuracy, sparsity),
        "latency": {
            **OLD,
            "median_ms": own,
            "torch": {"1": timed(own, 4.0), "8": timed(8 * own, 32.0)},
        },
        "files": {"plain": 4_000_000, "packed": 1_000_000, "zipped": None, "dense": 4_000_000},
        "parameters": {"stored": 1_000_000},
    }


@pytest.fixture
def runs(tmp_path):
    """Dense of an earlier version, two that were measured, one of them exported."""
    make_run(tmp_path / "dense", result={**report(0.9), "latency": OLD})
    for sparsity, own in ((0.8, 2.0), (0.9, 1.0)):
        make_run(
            tmp_path / f"pruned-{sparsity}",
            strategies=magnitude(sparsity),
            result=new(0.8, sparsity, own),
        )
    (tmp_path / "pruned-0.9" / "export").mkdir()
    times = {"latency": {"onnxruntime": {"1": timed(0.5, 1.0)}}}
    write_json(tmp_path / "pruned-0.9" / "export" / "export.json", times)
    return tmp_path


def costs(found):
    """Arm's label -> heading -> text, of both tables; None where there is neither."""
    tables = [t for t in report_of(found).tables if t.title.endswith("as measured")]
    shown = {}
    for table in tables:
        for row in table.rows:
            shown.setdefault(row[1], {}).update(zip(table.columns, row, strict=True))
    return shown or None


def test_the_table_has_a_dash_for_what_was_not_measured(runs):
    shown = costs(compare([runs]))
    old, eighty, ninety = (shown[label] for label in ("-", "0.8", "0.9"))
    assert [old[name] for name in ("torch b1, ms", "torch b1 / dense", "file, plain")] == [
        "3.00",
        "-",
        "-",
    ]
    assert eighty["torch b1, ms"] == "2.00"
    assert (eighty["torch b1 / dense"], eighty["torch b8 / dense"]) == ("0.50 x", "0.50 x")
    assert (eighty["file, packed"], eighty["parameters"]) == ("1.00 MB", "1.00 M")
    assert (eighty["ORT b1, ms"], ninety["ORT b1, ms"], ninety["ORT b1 / dense"]) == (
        "-",
        "0.50",
        "0.50 x",
    )
    assert "file, zipped" not in eighty  # nobody has it


def test_a_wide_table_is_whole_in_a_pipe(runs):
    screen = console()
    with screen.capture() as capture:
        print_report(report_of(compare([runs])), [], screen)
    printed = capture.get()
    assert "\u2026" not in printed
    assert max(map(len, printed.splitlines())) > 80


def test_runs_without_any_measure_have_no_such_table(tmp_path):
    make_run(tmp_path / "run", result=report(0.9))
    assert costs(compare([tmp_path])) is None


def test_the_numbers_are_those_of_the_reports(runs):
    found = compare([runs])
    for made in (run_rows(found.study), cell_rows(found.study, found.key)):
        (row,) = (row for row in made if row["sparsity"] == "0.9")
        assert row["latency_torch_1_ms"] == 1.0
        assert row["latency_torch_8_dense_ms"] == 32.0
        assert row["latency_torch_8_ratio"] == 0.25
        assert row["latency_onnxruntime_1_ms"] == 0.5
        assert row["file_packed"] == 1_000_000
        assert row["file_zipped"] is None


def test_accuracy_is_drawn_against_measured_time(runs):
    panels = {cost.title: points for cost, points in cost_panels(*study_of(runs))}
    assert sorted(point.cost for point in panels["Latency, torch"]) == [1.0, 2.0, 3.0]
    assert "Latency, onnxruntime" not in panels  # one point says nothing


def test_a_target_that_two_sizes_of_models_miss_by_a_hair_is_no_axis(tmp_path):
    for sparsity, own in ((0.8, 2.0), (0.7999993, 1.0)):
        made = tmp_path / f"at-{own}"
        make_run(made, strategies=magnitude(sparsity), result=new(0.8, sparsity, own))
    titles = [cost.title for cost, _ in cost_panels(*study_of(tmp_path))]
    assert "Sparsity" not in titles
    assert "Latency, torch" in titles


def test_a_sentence_says_what_arrived_over_the_cells(runs, tmp_path):
    # made reports save 1 less than the sparsity of 1000 multiply-adds
    assert arrived(compare([runs]).study) == (
        "79.9 to 89.9 % fewer multiply-adds than dense in theory: one image takes 0.25 to 0.50 x "
        "the time of the dense model in torch, over the 2 cells that save any."
    )
    assert arrived(compare([runs / "dense"]).study) == ""
    own = {**new(0.8, 0.8, 2.0), "saving": "80.0% fewer arrived as nothing."}
    alone = make_run(tmp_path / "alone", strategies=magnitude(0.8), result=own)
    assert arrived(compare([alone]).study) == "80.0% fewer arrived as nothing."
    (note,) = (t.note for t in report_of(compare([alone])).tables if t.title == "Times as measured")
    assert note.startswith("80.0% fewer arrived as nothing. Means over seeds.")


def study_of(runs):
    found = compare([runs])
    return found.study, found.key


def test_several_numbers_of_threads_are_told(runs):
    told = "The runs were timed with several numbers of threads: times do not compare."
    assert told not in report_of(compare([runs])).notices
    assert any(cost.timed for cost, _ in cost_panels(*study_of(runs)))
    result = {**report(0.9), "latency": {**OLD, "threads": 4}}
    make_run(runs / "other", strategies=magnitude(0.5), result=result)
    assert told in report_of(compare([runs])).notices
    assert not any(cost.timed for cost, _ in cost_panels(*study_of(runs)))  # no axis for both
