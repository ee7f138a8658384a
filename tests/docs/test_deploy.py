"""The tables of `docs/deploy.md` are what was measured."""

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "deploy.md").read_text("utf-8")
MEASURED = json.loads((DOCS / "deploy_measured.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_deploy_table.py"), run_name="make_deploy_table")


def test_the_tables_are_those_of_the_measurement(script):
    remedy = "python docs/make_deploy_table.py writes it anew"
    assert script["page"](TEXT, MEASURED) == TEXT, remedy


def test_every_section_of_the_measurement_has_its_numbers_on_the_page(script):
    for section in MEASURED["sections"]:
        for row in section["rows"]:
            assert f"{row['ratio']:.3f}" in TEXT, (section["name"], row["what"])
            assert not row["goal"] or script["verdict"](row) in TEXT


def test_the_conditions_stand_above_the_tables():
    words = " ".join(TEXT.split())  # lines are broken
    for name in ("torch", "onnx", "onnxruntime"):
        assert f"{name} {MEASURED['versions'][name]}" in words
    assert f"`prunekit bench deploy`, {MEASURED['date']}: " in words
    assert MEASURED["quick"] is False
