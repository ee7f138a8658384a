"""The plugin stands on what prunekit exports, and is found by name."""

import ast
import importlib.metadata
from pathlib import Path

import prunekit_rni
import pytest

import prunekit
import prunekit.testing

PACKAGE = Path(prunekit_rni.__file__).parent
PUBLIC = {"prunekit": prunekit.__all__, "prunekit.testing": prunekit.testing.__all__}


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "prunekit":
            yield ("prunekit", node.attr)


def too_deep(source):
    for module, name in imported(source):
        if module.split(".")[0] == "prunekit" and (
            module not in PUBLIC
            or (name is not None and name not in {*PUBLIC[module], "testing", "__all__"})
        ):
            yield module, name


@pytest.mark.parametrize(
    "path", [*PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py")], ids=lambda p: p.name
)
def test_only_exported_names_are_imported(path):
    assert list(too_deep(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from prunekit.masks import MaskSet",
        "import prunekit.pruner",
        "from prunekit import x",
        "from prunekit.testing import x",
        "import prunekit\nprunekit.masks",
    ],
)
def test_deeper_imports_are_seen(line):
    assert list(too_deep(line))


def test_torch_pruning_is_only_imported_by_the_removal():
    users = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(m.startswith("torch_pruning") for m, _ in imported(path.read_text(encoding="utf-8")))
    }
    assert users == {"removal.py"}


@pytest.mark.parametrize("name", ["rni", "l1_bn", "ucs"])
def test_strategies_are_entry_points(name):
    points = importlib.metadata.entry_points(group="prunekit.strategies", name=name)
    assert [point.dist.name for point in points] == ["prunekit-rni"]
    assert prunekit.strategy(name, sparsity=0.5).config.name == name
