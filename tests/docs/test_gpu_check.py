"""The script for a machine with a GPU, at tiny sizes on the CPU, and the table of what it gave."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS / "gpu_check.py"


@pytest.fixture(scope="module")
def scripts():
    """`gpu_check`, `gpu_stages` and `make_gpu_table`, as the scripts import each other."""
    sys.path.insert(0, str(DOCS))
    try:
        yield [importlib.import_module(n) for n in ("gpu_check", "gpu_stages", "make_gpu_table")]
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture
def check(scripts):
    return scripts[0]


@pytest.fixture
def table(scripts):
    return scripts[2]


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
def test_all_stages_pass_at_tiny_sizes_and_fill_the_table(check, table, commands, tmp_path):
    """The shortest is left to the script, which starts each in an interpreter of its own."""
    out = tmp_path / "gpu"
    out.mkdir()
    names, left = [stage.name for stage in check.STAGES], "update"
    for name in names:
        if name != left:
            words = ("--stage", name, "--seconds", 600, "--device", "cpu", "--out", out)
            done = commands(*words, "--rehearse", script=str(SCRIPT))
            assert done.code == 0, done.text
    done = run("--rehearse", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = {name: "done" if name == left else "done before" for name in names}
    assert done.stdout.splitlines() == [f"{name}: {end}" for name, end in ends.items()]
    found = json.loads((out / "all.json").read_text())
    assert list(found) == names
    assert found["doctor"]["self_test"]["passed"]
    assert found["waits"]["bad"] == []
    assert found["train"]["own_over_hand"] > 0
    assert found["train"]["run"]["train"]["images"] == 64
    assert found["update"]["weights"] > 0
    assert found["resume"]["resumed on cpu"]["mask_entries_apart"] == 0
    assert [cell["ratio"] for cell in found["paper"]["cells"]] == [0.0, 0.4]
    text = table.section(found)
    assert "not measured" not in text
    assert "- `" not in text  # no stage ended otherwise


def test_a_stage_that_fails_keeps_what_it_found_and_says_why(scripts, tmp_path, monkeypatch):
    check, stages, _ = scripts

    def broken(notes, settings):
        notes.put(half=1)
        raise RuntimeError("device-side assert\ntriggered")

    ended = []
    monkeypatch.setattr(stages, "update", broken)
    monkeypatch.setattr(check.os, "_exit", ended.append)
    check.run_stage("update", check.Settings(tmp_path, "cpu", None, True, 0.0))
    found = json.loads((tmp_path / "update.json").read_text())
    assert ended == [1]
    assert found["half"] == 1


def test_a_stage_that_was_killed_is_told_as_out_of_time(check, tmp_path):
    path = tmp_path / "train.json"
    check.Notes(path).put(own_images_per_second=5.0)
    assert check._settle(path, None) == "out of time"
    found = json.loads(path.read_text())
    assert found == {"own_images_per_second": 5.0, "ended": "out of time"}
    assert check._settle(tmp_path / "never.json", -9).startswith("failed with exit code -9")


def test_no_stage_begins_without_time(tmp_path):
    done = run("--rehearse", "--out", tmp_path, "--minutes", "0.01")
    assert done.returncode == 1
    assert set(done.stdout.splitlines()) >= {"doctor: not begun: no time was left"}


def test_twelve_minutes_hold_all_stages(check):
    assert sum(stage.seconds for stage in check.STAGES) <= 12 * 60


def test_the_page_has_what_was_measured_or_the_empty_table_with_its_command(table):
    page = table.PAGE.read_text("utf-8")
    assert table.written(page, table.section(table.read(None))) == page
    if table.read(None) is None:
        assert "CUDA was rehearsed, and not run" in page
        assert "python docs/gpu_check.py --out gpu" in page


def test_numbers_of_a_rehearsal_do_not_reach_the_page(table, tmp_path, monkeypatch, capsys):
    (tmp_path / "all.json").write_text(json.dumps({"doctor": {"rehearsed": True}}))
    monkeypatch.setattr(sys, "argv", ["make_gpu_table.py", str(tmp_path)])
    before = table.PAGE.read_bytes()
    assert table.main() == 1
    assert "rehearsal" in capsys.readouterr().err
    assert table.PAGE.read_bytes() == before


def test_what_a_stage_had_not_reached_is_not_measured(table):
    machine = {"accelerators": [{"name": "GPU X"}], "versions": {"torch": "2.14.1"}}
    found = {
        "doctor": {"machine": machine, "date": "2026-12-01", "ended": "done"},
        "update": {"median_ms": 7.04, "weights": 85_000_000, "ended": "out of time"},
        "paper": {
            "cells": [{"ratio": 0.4, "test_top1": 0.8}],
            "epochs": 9,
            "of": 40,
            "ended": "done",
        },
    }
    text = table.section(found)
    assert text.startswith("One GPU X, torch 2.14.1, 2026-12-01;")
    assert "| update of the masks of ViT-B | not measured | <= 10 ms |" in text
    assert "| the same: ratio 0.4 | 80.00% after 9 of 40 epochs |" in text
    assert "- `update`: out of time" in text
    assert "rehearsed" not in text
