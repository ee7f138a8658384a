"""One word, one thing: a public name is defined once, and no module hides a library's name."""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import prunekit
from prunekit import sweep

PACKAGE = Path(prunekit.__file__).parent
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAY_REPEAT = {"command", "main"}
"""A command of `prunekit` is a module with a `command`; what `python -m` runs has a `main`."""
MAY_BE_CALLED_SO = {"report/statistics.py"}
"""A public name. An adapter that is called after what it adapts would stand here as well, as it
imports that by its full name."""


def definitions(node: ast.AST) -> Iterator[str]:
    """Public classes and functions of a module, those under its `if` and `try` included."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from definitions(child)
        elif not child.name.startswith("_"):
            yield child.name


def defined_twice(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Name -> the modules that define it, of names that several do."""
    homes = defaultdict(list)
    for module, source in sources.items():
        for name in dict.fromkeys(definitions(ast.parse(source))):
            homes[name].append(module)
    return {name: modules for name, modules in homes.items() if len(modules) > 1}


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports, in its functions as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def hiding(sources: Mapping[str, str]) -> list[str]:
    """Modules and packages that are called like one of the standard library or one they import."""
    found = []
    for module, source in sources.items():
        path = Path(module)
        name = path.parent.name if path.stem == "__init__" else path.stem
        if name in sys.stdlib_module_names | imported(source):
            found.append(module)
    return found


def test_a_public_name_is_defined_once():
    found = defined_twice(SOURCES)
    assert {name: found[name] for name in found if name not in MAY_REPEAT} == {}
    assert set(found) == MAY_REPEAT  # what does not repeat any more needs no exception


def test_a_name_of_two_modules_is_found():
    made = {
        "a.py": "class Cell:\n    class Config: ...\ndef _own(): ...\ndef main(): ...\n",
        "b/__init__.py": "if True:\n    def Cell(): ...\nclass Row:\n    class Config: ...\n",
        "b/c.py": "def _own(): ...\ndef outer():\n    def Row(): ...\nCell = 1\n",
        "d.py": "try:\n    import x\nexcept OSError:\n    class Row: ...\nasync def main(): ...\n",
    }
    assert defined_twice(made) == {
        "Cell": ["a.py", "b/__init__.py"],
        "main": ["a.py", "d.py"],
        "Row": ["b/__init__.py", "d.py"],
    }


def test_no_module_is_called_like_a_library():
    assert set(hiding(SOURCES)) == MAY_BE_CALLED_SO


def test_a_module_that_is_called_like_a_library_is_found():
    made = {
        "train/logging.py": "",
        "queue/__init__.py": "",
        "recipe/yaml.py": "def read():\n    from yaml.nodes import Node\n",
        "models/timm.py": "import timm.layers\n",
        "report/table.py": "from rich.table import Table\nfrom .table import x\n",
        "__init__.py": "",
    }
    assert hiding(made) == ["train/logging.py", "queue/__init__.py", *list(made)[2:4]]


def test_a_sweep_keeps_the_former_name_of_its_cells():
    assert sweep.Cell is sweep.SweepCell
