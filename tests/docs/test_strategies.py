"""The pages of the strategies agree with the classes, and the table with both."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from prunekit.recipe.load import recipe_from
from prunekit.registry import STRATEGIES

DOCS = Path(__file__).parents[2] / "docs"
NAMES = [component.name for component in STRATEGIES.components() if component.builtin]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("script", DOCS / "make_strategy_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_up_to_date(script: ModuleType) -> None:
    remedy = "run python docs/make_strategy_table.py"
    assert script.main(check=True) == 0, remedy
    lines = (DOCS / "strategies" / "index.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| [")] == [
        line for name in NAMES for line in lines if line.startswith(f"| [{name}]({name}.md) |")
    ]


def test_a_table_that_is_not_up_to_date_is_noticed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in (DOCS / "strategies").iterdir():
        (tmp_path / page.name).write_text(page.read_text())
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    page = tmp_path / "magnitude.md"
    page.write_text(page.read_text().replace("| scores | abs(w)", "| scores | w"))
    assert script.main(check=True) == 1
    assert script.main(check=False) == 0
    assert script.main(check=True) == 0
    assert "| [magnitude](magnitude.md) | w of the dense" in (tmp_path / "index.md").read_text()
    page.write_text(page.read_text().replace("| regrowth |", "| regrow |"))
    with pytest.raises(ValueError, match=r"magnitude\.md: its table has no row 'regrowth'"):
        script.main(check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_the_modes_and_the_paper_of_its_class(name: str, script: ModuleType) -> None:
    text = (DOCS / "strategies" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    row = script.facts(DOCS / "strategies" / f"{name}.md")["mode"]
    listed, known = (re.findall(r"`(\w+)`", modes) for modes in (row, script.modes(name)))
    assert listed[0] == known[0], "the default comes first"
    assert sorted(listed) == sorted(known)
    papers = re.findall(r"\d{4}\.\d{5}", STRATEGIES.describe(name).paper)
    assert papers
    assert papers[0] in text


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_of_a_page_are_valid(name: str) -> None:
    text = (DOCS / "strategies" / f"{name}.md").read_text()
    base: dict[str, Any] = {
        "name": "page",
        "data": {"name": "digits", "batch_size": 64},
        "model": {"name": "mlp"},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "phases": [{"name": "train", "length": "6ep"}],
    }
    snippets = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    recipes = [recipe_from(base | YAML(typ="safe").load(snippet)) for snippet in snippets]
    assert recipes
    assert any(config.name == name for recipe in recipes for config in recipe.strategies)
