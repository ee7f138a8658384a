"""The table of goals in `docs/performance.md` is what was measured."""

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "performance.md").read_text("utf-8")
FILE = DOCS / "speed_measured.json"
MEASURED = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_speed_table.py"), run_name="make_speed_table")


def test_the_table_is_that_of_the_measurement(script):
    remedy = "python docs/make_speed_table.py writes it anew"
    assert script["page"](TEXT, MEASURED) == TEXT, remedy
    assert not any(document["quick"] for document in MEASURED.values())


def test_a_row_has_null_ratio_goal_and_verdict_and_its_machine_stands_above(script):
    row = {"what": "ours", "ours": 2.0, "unit": "ms", "ratio": 0.5, "interval": [0.4, 0.55]}
    goal = {**row, "goal": "<= 0.6 x", "verdict": "met"}
    section = {"name": "step", "baseline": "theirs", "null": 0.004}
    document = {
        "subject": "train",
        "date": "2026-01-02",
        "cpus": 2,
        "load": 0.6,
        "versions": {"torch": "2.0", "other": "1"},
        "environment": {"device_name": "a CPU", "os": "an OS", "python": "3.11"},
        "sections": [{**section, "rows": [{**row, "goal": "", "verdict": ""}, goal]}],
    }
    text = script["table"]({"train": document})
    assert (
        "`train`: 2026-01-02: a CPU, 2 CPUs, one thread, load 1; an OS; Python 3.11, torch 2.0."
        in text
    )
    rows = [line for line in text.splitlines() if line.startswith("| `")][1:]
    assert rows == ["| `train`, step | ours | theirs | ± 0.004 | 0.500 ± 0.100 | <= 0.6 | met |"]
