"""Plugins see nothing of prunekit but what it exports: the packages here, and those it writes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import prunekit
import prunekit.testing
from prunekit.cli.scaffold import kinds_with_templates, plugin_named, rendered

PUBLIC = {"prunekit": set(prunekit.__all__), "prunekit.testing": set(prunekit.testing.__all__)}
FILES = sorted((Path(__file__).parents[2] / "plugins").glob("*/**/*.py"))
WRITTEN = {
    f"{kind} {path}": text
    for kind in kinds_with_templates()
    for path, text in rendered(plugin_named("prunekit-x", kind)).items()
    if path.suffix == ".py"
}


def private_imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and is_own(node.module):
            names = {alias.name for alias in node.names}
            allowed = PUBLIC.get(node.module, set())
            if node.module == "prunekit":
                allowed = allowed | {"testing"}
            yield from (f"{node.module}.{name}" for name in sorted(names - allowed))
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if is_own(alias.name)}
            yield from sorted(names - PUBLIC.keys())


def is_own(module: str) -> bool:
    return module.split(".")[0] == "prunekit"


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_plugin_of_this_repository_imports_what_is_exported(path: Path) -> None:
    assert list(private_imports(path.read_text())) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_plugin_imports_what_is_exported(name: str) -> None:
    assert list(private_imports(WRITTEN[name])) == []


def test_what_is_deeper_is_found() -> None:
    source = (
        "import prunekit.pruning.masks, os\nimport prunekit\n"
        "from prunekit.pruning.cadence import Cadence\n"
        "from prunekit import Clock, masks, testing\nfrom prunekit.testing import check_probe\n"
        "def late():\n    from prunekit.testing.cases import Trial\n"
    )
    assert sorted(private_imports(source)) == [
        "prunekit.masks",
        "prunekit.pruning.cadence.Cadence",
        "prunekit.pruning.masks",
        "prunekit.testing.cases.Trial",
    ]
