"""The package stands on what `prunekit` and `prunekit.testing` export, and on nothing deeper."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

import prunekit
import prunekit.testing

PUBLIC = {"prunekit": set(prunekit.__all__), "prunekit.testing": set(prunekit.testing.__all__)}
HERE = Path(__file__).parent
PACKAGE = "prunekit_nnrelief"


def sources():
    folders = [*find_spec(PACKAGE).submodule_search_locations, HERE]
    return [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]


def too_deep(text):
    """What a source reaches for that is not public."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if inside(a.name) and a.name not in PUBLIC]
        elif isinstance(node, ast.ImportFrom) and not node.level and inside(node.module):
            public = PUBLIC.get(node.module, set())
            whole = {f"{node.module}.{a.name}" for a in node.names}
            if not whole <= {f"{node.module}.{name}" for name in public} | set(PUBLIC):
                found.append(f"{node.module}: {', '.join(a.name for a in node.names)}")
        elif isinstance(node, ast.Attribute) and (owner := dotted(node.value)) in PUBLIC:
            if node.attr not in PUBLIC[owner] | {"testing", "__all__"}:
                found.append(f"{owner}.{node.attr}")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and inside(str(node.args[0].value)):
                found.append(f"{name}({node.args[0].value!r})")
    return found


def inside(module):
    return module.split(".")[0] == "prunekit"


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return getattr(node, "id", "")


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_only_public_names_are_imported(path):
    assert too_deep(path.read_text(encoding="utf-8")) == []


def test_the_package_is_looked_at():
    assert {"__init__.py", "test_imports.py"} <= {path.name for path in sources()}


@pytest.mark.parametrize(
    "text",
    [
        "from prunekit.masks import MaskSet",
        "from prunekit import masks",
        "import prunekit.strategies.base",
        "import prunekit\nprunekit.masks.MaskSet",
        "import prunekit.testing\nprunekit.testing.models",
        "from prunekit.testing import SMALL_MODELS",
        "def f():\n    from prunekit.pruner import Ranks",
        "from importlib import import_module\nimport_module('prunekit.masks')",
    ],
)
def test_a_deeper_import_is_seen(text):
    assert too_deep(text)


@pytest.mark.parametrize(
    "text",
    [
        "from prunekit import Context, Update",
        "import prunekit\nprunekit.Pruner",
        "import prunekit.testing\nprunekit.testing.check_strategy",
        "from prunekit import testing",
        "from prunekit_other.masks import all_kept",
        "from .masks import all_kept",
    ],
)
def test_a_public_import_is_fine(text):
    assert too_deep(text) == []
