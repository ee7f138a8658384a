"""The house: rooms in one order, arrows that run down, no circle of files, masks from one room."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import torch

import prunekit
from prunekit.recipe.load import load_recipe
from prunekit.train.build import build
from prunekit.train.distributed import joined

PACKAGE = Path(prunekit.__file__).parent
ROOMS = [
    "errors",
    "foundation",
    "registry",
    "recipe",
    "data",
    "compressors",
    "runs",
    "loggers",
    "models",
    "pruning",
    "train",
    "sweep",
    "export",
    "integrations",
    "testing",
    "bench",
    "report",
    "cli",
]
"""From the ground up: a room may import those before it. Add a room where it belongs."""
AT_THE_ROOT = {"__init__.py", "__init__.pyi", "__main__.py", "errors.py", "py.typed"}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports: anywhere in it, for types or lazily too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in whole)


def arrows_up(package: Path) -> list[str]:
    """`importer -> imported`, where a room imports one that is not before it; rooms unknown too."""
    known = modules(package)
    rank = {room: place for place, room in enumerate(ROOMS)}
    found = []
    for name, path in known.items():
        room = name.split(".")[1] if "." in name else None
        if room in (None, "__main__"):  # the root and the start are no rooms: they may import all
            continue
        for target in imports(path, known):
            other = target.split(".")[1] if "." in target else "(root)"
            if rank.get(other, len(ROOMS)) > rank.get(room, -1):
                found.append(f"{name} -> {target}")
    return found


def circle(package: Path) -> list[str]:
    """The files of one circle of imports; empty where there is none."""
    known = modules(package)
    graph = {name: {*imports(path, known)} - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_every_arrow_runs_down():
    assert arrows_up(PACKAGE) == []


def test_no_file_is_in_a_circle():
    assert circle(PACKAGE) == []


def test_an_arrow_up_a_circle_and_an_unknown_room_are_found(tmp_path):
    package = tmp_path / "prunekit"
    for room, source in {
        "pruning": "def late():\n    from prunekit.train import loop\n",
        "train": "from prunekit.pruning import masks\n",
        "attic": "if TYPE_CHECKING:\n    import prunekit.pruning\n",
    }.items():
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
        (package / room / "loop.py").write_text(source)
    (package / "__init__.py").write_text("")
    (package / "pruning" / "masks.py").write_text("from prunekit.train.loop import x\n")
    assert sorted(arrows_up(package)) == [
        "prunekit.attic.loop -> prunekit.pruning",
        "prunekit.pruning.loop -> prunekit.train.loop",
        "prunekit.pruning.masks -> prunekit.train.loop",
    ]
    assert {"prunekit.train.loop", "prunekit.pruning.masks"} <= {*circle(package)}


def test_the_root_holds_rooms_and_no_loose_files():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    rooms = {name for name in entries if (PACKAGE / name / "__init__.py").is_file()}
    assert rooms == {*ROOMS} - {"errors"}
    assert entries - rooms - {"recipes"} == AT_THE_ROOT  # a wheel has the recipes in the package


def test_each_room_says_what_it_is():
    for room in {*ROOMS} - {"errors"}:
        docstring = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        text = " ".join((docstring or "").split())
        assert "nows " in text, f"{room}: say what it knows, or knows nothing of"
        assert " import" in text, f"{room}: say who may import it"


def test_no_handler_takes_what_is_no_exception():
    """A Ctrl-C would pass for a fault of what runs there; foreign code has `ForeignCode`."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        suspect = "BaseException" in text or "except:" in text
        for node in ast.walk(ast.parse(text)) if suspect else ():
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "BaseException"
                assert "BaseException" not in caught, f"{path}:{node.lineno}"


def test_a_mask_update_stays_within_pruning():
    """One update of the quick start calls no other room but what everything stands on."""
    recipe = load_recipe("quickstart")
    called = set()

    def look(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            called.add(path.relative_to(PACKAGE).parts[0])

    with joined() as group:
        engine = build(recipe, group).engine
        engine.start()
        engine.step = engine.timeline.total_steps
        before = engine.masks()
        sys.setprofile(look)
        try:
            engine.update_masks()
        finally:
            sys.setprofile(None)
    assert any(not torch.equal(mask, before[name]) for name, mask in engine.masks().items())
    assert called == {"pruning", "foundation"}
