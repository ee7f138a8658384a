"""The measured table of all compressors is what its command writes of what was measured."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from prunekit.registry import COMPRESSORS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_compressor_table.py"), run_name="make_compressor_table")


def test_the_page_has_the_table_of_what_was_measured(made: dict[str, Any]) -> None:
    page = (DOCS / "compressors.md").read_text()
    found = json.loads((DOCS / "compressors_measured.json").read_text())
    remedy = "python docs/make_compressor_table.py writes it anew"
    assert made["written"](page, found) == page, remedy


def test_every_compressor_has_its_rows(made: dict[str, Any]) -> None:
    found = json.loads((DOCS / "compressors_measured.json").read_text())
    own = {one.name for one in COMPRESSORS.components() if one.builtin}
    assert set(made["METHODS"]) == own
    assert set(found["rows"]) == {f"{place}/{name}" for place in made["PLACES"] for name in own}
    for values in found["rows"].values():
        assert len(values["before"]) == len(values["after"]) == len(found["seeds"])
        assert values["tokens"] == found["rows"]["at once/tome"]["tokens"] or len(
            values["tokens"]
        ) == 1 + len(made["PLACES"]["step by step"])


def test_one_method_is_measured_before_and_after_training(made: dict[str, Any]) -> None:
    """The oracle: without training nothing but the compressor differs from the weights given."""
    options = type("Options", (), {"data": {"train_limit": 64, "test_limit": 50}, "model": {}})
    held = [{"name": "average_pool", "slot": "blocks.0", "ratio": 0.5}]
    found = made["one"](made["recipe"](0, options, "2st", 1e-3, compressors=held))
    assert found["tokens"] == [16, 8]
    assert found["images"] == 50
    assert 0 < found["macs"] < 1
    assert 0 <= found["before"] <= 1
    assert 0 <= found["after"] <= 1
