"""What `docs/architecture.md` and the decision records name is there."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "prunekit"
PAGE = ROOT / "docs/architecture.md"
RECORDS = sorted((ROOT / "docs/decisions").glob("*.md"))
TOPS = ("prunekit", "docs", "tests", "recipes", "plugins")
FILE = r"\w+\.pyi?"


def named_paths(page: Path) -> list[str]:
    """Files and folders in backticks: `recipe/load.py`, `cli/templates/`, `errors.py`."""
    quoted = " ".join(re.findall(r"`([^`\n]+)`", page.read_text("utf-8")))
    rooms = "|".join((*TOPS, *(folder.name for folder in room_folders())))
    found = re.findall(rf"(?<![\w/.<-])((?:{rooms})/[\w./*-]*|{FILE})(?![\w/<-])", quoted)
    return list(dict.fromkeys(found))


def named_definitions(page: Path) -> list[tuple[str, str]]:
    """A file and a name right behind it: `recipe/load.py` `load_recipe`."""
    return re.findall(r"`([\w./-]+\.py)`\s+`([A-Za-z_][\w.]*)`", page.read_text("utf-8"))


def room_folders() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def from_root(path: str) -> str:
    return path if path.split("/")[0] in TOPS else f"prunekit/{path}"


@cache
def defined_in(file: str) -> frozenset[str]:
    """Top-level names, those of values too, and the methods of classes."""
    names: set[str] = set()
    for node in ast.parse((ROOT / from_root(file)).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)
            }
    return frozenset(names)


@pytest.mark.parametrize("page", [PAGE, *RECORDS], ids=lambda page: page.stem)
def test_every_path_that_is_named_exists(page):
    lost = [path for path in named_paths(page) if not any(ROOT.glob(from_root(path).rstrip("/")))]
    assert lost == []


@pytest.mark.parametrize("page", [PAGE, *RECORDS], ids=lambda page: page.stem)
def test_every_name_is_defined_in_the_file_before_it(page):
    pairs = named_definitions(page)
    lost = [(file, name) for file, name in pairs if name not in defined_in(file)]
    assert lost == []


def test_the_page_follows_the_code_by_name():
    assert len(named_definitions(PAGE)) > 40


def test_every_room_is_on_the_page():
    text = PAGE.read_text("utf-8")
    lost = [
        room.name
        for room in room_folders()
        if f"{room.name}/" not in text.split("```")[1] or f"| `{room.name}` |" not in text
    ]
    assert lost == []


def test_every_record_is_in_the_index():
    index = (ROOT / "docs/decisions/index.md").read_text("utf-8")
    lost = [page.name for page in RECORDS if f"({page.name})" not in index]
    assert lost == ["index.md"]


def measured(name, capsys) -> str:
    """What `python docs/decisions/measure.py NAME` prints."""
    runpy.run_path(str(ROOT / "docs/decisions/measure.py"))[name]()
    return capsys.readouterr().out


@pytest.mark.slow
def test_counts_that_no_machine_changes_are_those_of_the_records(capsys):
    assert measured("counts", capsys).startswith("49 of 100,000")
    assert measured("split", capsys).splitlines() == [
        "largest remainders: 508 of 20,000 totals",
        "ours: 0 of 20,000 totals",
    ]
    assert "1,111,110 values" in measured("aliases", capsys)
    assert "2 pairs: 0.862" in measured("shift", capsys)
