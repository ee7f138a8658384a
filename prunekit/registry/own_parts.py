"""Which classes and functions of a file are parts of others in it, read from its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Defined = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parts_of_others(source: bytes) -> frozenset[str]:
    """Names that another class or function of the file uses in its body.

    A block of a network, a function that lists files. What a class inherits from is none, and what
    the module itself calls, as `seed_everything()`, is one where it is a function.

    Args:
        source: the file; it has been compiled before.
    """
    body = ast.parse(source).body
    defined = {node.name: node for node in body if isinstance(node, Defined)}
    found = set()
    for node in body:
        if isinstance(node, Defined):
            used = set(_names(node)) - {node.name}
        else:
            called = set(_names(node))
            used = {n for n in called if not isinstance(defined.get(n), ast.ClassDef)}
        found |= used & defined.keys()
    return frozenset(found)


def _names(node: ast.AST) -> Iterator[str]:
    """Names that are read below a node; of a class and its decorators, not those of its bases."""
    inner = ast.iter_child_nodes(node)
    if isinstance(node, ast.ClassDef):
        inner = iter([*node.body, *node.decorator_list])
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # a type is none that is used
        inner = iter([*node.body, *node.decorator_list, *node.args.defaults])
    if isinstance(node, ast.Name):
        yield node.id
    for child in inner:
        yield from _names(child)
