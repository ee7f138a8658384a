"""prunekit: training-time weight pruning and token compression, composed by a recipe.

The public interface is what `__init__.pyi` imports; importing the package imports nothing heavy.
"""

import importlib
from functools import cache
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "__all__":
        return __dir__()
    # whoever looks for other names of this kind asks every module, and means no public one
    home = None if name.startswith("_") else _homes().get(name)
    if home is None:
        raise AttributeError(f"module 'prunekit' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*_homes(), "__version__"])


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("prunekit")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"


@cache
def _homes() -> dict[str, str]:
    """Public name -> the module that it is imported from."""
    import ast
    import pkgutil

    stub = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")  # also from a zip
    return {
        alias.name: str(node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
