"""Evaluations on masks that just changed: which of them are told, by hand."""

import json

import pytest
from hypothesis import given, strategies as st

from prunekit.foundation.files import write_json
from prunekit.report import summarise
from prunekit.report.evaluations import dips, dips_line
from prunekit.report.figures import run as figure
from prunekit.runs.logged import Logged
from prunekit.runs.new_directory import new_run_dir


def log(accuracies, updates, key="eval/test_top1"):
    lines = [{"step": step, "flips/magnitude": 3, "sparsity/achieved": 0.5} for step in updates]
    return lines + [{"step": step, key: value} for step, value in accuracies.items()]


COLLAPSE = {10: 0.8, 20: 0.3, 30: 0.82}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (log(COLLAPSE, [20]), [20]),
        (log(COLLAPSE, [20], "eval/validation_top1"), [20]),
        (log(COLLAPSE, [19, 21]), []),
        (log({10: 0.8, 20: 0.3, 30: 0.25}, [20]), []),  # it did not come back
        (log({10: 0.8, 20: 0.795, 30: 0.82}, [20]), []),
        (log({10: 0.8, 20: 0.3}, [20]), []),
        (log({10: 0.8, 20: None, 30: 0.3, 40: 0.9}, [20, 30]), [30]),
        ([*log(COLLAPSE, []), {"step": 20, "flips/magnitude": 0}], []),
        ([], []),
    ],
)
def test_a_dip_is_worse_than_before_and_after_on_new_masks(lines, found):
    assert dips(Logged(lines)) == found


@pytest.mark.parametrize(
    ("images", "wrong", "found"),
    [
        (40, (9, 13), []),  # 10 points of 2 sqrt(0.725 * 0.275 / 40) = 14.1
        (40, (8, 15), [20]),  # 17.5 points of 14.4
        (4000, (800, 900), [20]),  # 2.5 points of 1.3
        (16, (0, 1), []),  # one image of few
    ],
)
def test_a_few_images_are_no_dip(images, wrong, found):
    shares = {10: wrong[0], 20: wrong[1], 30: wrong[0] - (images == 4000)}
    lines = log({step: 1 - count / images for step, count in shares.items()}, [20])
    assert dips(Logged(lines)) == found


@given(st.lists(st.floats(0, 1), max_size=9))
def test_nothing_is_a_dip_without_an_update(values):
    assert dips(Logged(log(dict(enumerate(values)), []))) == []


def test_the_sentence_names_few():
    assert dips_line(Logged()) == ""
    values = {step: 0.9 - 0.5 * (step % 2) for step in range(20)}
    many = Logged(log(values, list(values)))
    assert "dips at step 1, 3, 5, 7, 9 and 4 more: masks changed there" in dips_line(many)
    one = Logged(log({1: 0.9, 1000: 0.1, 1500: 0.9}, [1000]))
    assert "dips at step 1,000: masks" in dips_line(one)


def write_log(run_dir, lines):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_summary_of_a_run_says_it_and_its_picture_rings_it(tmp_path, monkeypatch):
    run_dir = new_run_dir(tmp_path, "demo", "01234567")
    (run_dir / "resolved.yaml").write_text("name: demo\n")
    write_json(run_dir / "report.json", {"recipe": "demo"})
    write_log(run_dir, log(COLLAPSE, []))
    assert not any("dips" in str(part) for part in summarise(run_dir))
    write_log(run_dir, log(COLLAPSE, [20]))
    assert any("dips at step 20: masks changed" in str(part) for part in summarise(run_dir))
    drawn = []
    finish = figure._finish
    monkeypatch.setattr(
        figure, "_finish", lambda axis, *rest: (drawn.append(axis), finish(axis, *rest))
    )
    figure.picture(run_dir)
    accuracy = next(axis for axis in drawn if axis.get_title(loc="left") == "Accuracy")
    ringed = [line for line in accuracy.get_lines() if line.get_label().startswith("masks changed")]
    assert [line.get_xydata().tolist() for line in ringed] == [[[20.0, 30.0]]]
