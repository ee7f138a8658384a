"""What a component says of itself, read from its source file without running it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

REEXPORTS = 4
"""`from .part import Name` is followed this many times."""


@dataclass(frozen=True, slots=True)
class Description:
    """A component in a line; empty where its source does not tell."""

    summary: str = ""
    """The first line of the docstring."""
    paper: str = ""
    """Where the method comes from: `arXiv:NNNN.NNNNN`."""


def describe_source(value: str) -> Description:
    """Describe the class `module:Class` without importing its module or a parent of it."""
    module, _, attribute = value.partition(":")
    try:
        found = _find_class(module, attribute.split("."), REEXPORTS)
    except Exception:  # any file, any finder: a list of names must come out whatever they hold
        found = None
    return Description() if found is None else _describe(found)


def describe_class(cls: type) -> Description:
    """Describe a class that is at hand."""
    paper = getattr(cls, "paper", "")
    return Description(
        _first_line(inspect.cleandoc(vars(cls).get("__doc__") or "")),
        paper if isinstance(paper, str) else "",
    )


def find_spec(module: str) -> ModuleSpec | None:
    """`importlib.util.find_spec` without its import of the parents.

    Asks the finders of `sys.meta_path`, so that editable installs are found as well.
    """
    parent, dot, _ = module.rpartition(".")
    if not dot:
        return _ask_finders(module, None)
    package = _package(parent, tuple(sys.path))
    return None if package is None else _ask_finders(module, package.submodule_search_locations)


@lru_cache
def _package(name: str, search_path: tuple[str, ...]) -> ModuleSpec | None:
    """That of a package, looked up once for all that is in it."""
    return find_spec(name)


def _ask_finders(module: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        ask = getattr(finder, "find_spec", None)
        spec = ask(module, path) if ask else None
        if isinstance(spec, ModuleSpec):
            return spec
    return None


def _find_class(module: str, names: Sequence[str], reexports: int) -> ast.ClassDef | None:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    text = Path(spec.origin).read_bytes()
    if len(names) == 1 and (alone := _head_alone(text, names[0])):
        return alone
    body = ast.parse(text).body
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == names[0]:
            return _nested(node, names[1:])
    for node in body:
        if isinstance(node, ast.ImportFrom) and reexports:
            for alias in node.names:
                if (alias.asname or alias.name) == names[0]:
                    source = _source_module(node, module, spec)
                    return _find_class(source, [alias.name, *names[1:]], reexports - 1)
    return None


METHOD = (b"def ", b"async def ", b"@")


def _head_alone(text: bytes, name: str) -> ast.ClassDef | None:
    """A class up to its first method, parsed alone: most of a file is beside the point.

    None where that does not do: then the whole file must be parsed.
    """
    _, found, rest = text.partition(b"\nclass " + name.encode())
    if not found or not rest.startswith((b"(", b":")) or b"\nclass " + name.encode() in rest:
        return None
    head = [found[1:] + rest[: rest.find(b"\n")]]
    for line in rest.split(b"\n")[1:]:
        if not line[:1].isspace() and line[:1] not in b")]}#":  # the class has ended
            break
        if line.lstrip().startswith(METHOD):
            break
        head.append(line)
    if rest.find(b"paper =", sum(map(len, head))) >= 0:
        return None
    try:
        (node,) = ast.parse(b"\n".join(head)).body
    except (SyntaxError, ValueError):  # cut inside a string, say
        return None
    return node if isinstance(node, ast.ClassDef) else None


def _source_module(node: ast.ImportFrom, module: str, spec: ModuleSpec) -> str:
    package = module.split(".") if spec.submodule_search_locations else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*base, *filter(None, [node.module])])


def _nested(node: ast.ClassDef, names: Sequence[str]) -> ast.ClassDef | None:
    for name in names:
        inner = [n for n in node.body if isinstance(n, ast.ClassDef) and n.name == name]
        if not inner:
            return None
        node = inner[0]
    return node


def _describe(node: ast.ClassDef) -> Description:
    paper = ""
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == "paper" for target in targets):
            paper = _text(getattr(statement, "value", None))
    return Description(_first_line(ast.get_docstring(node)), paper)


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0].strip()
