"""prunekit: training-time weight pruning and token compression, composed by a recipe.

The public interface is what `__init__.pyi` imports; importing the package imports nothing heavy.
"""

import ast
import importlib
import pkgutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("prunekit")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

_STUB = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")  # also from a zip
_HOME_OF = {
    alias.name: str(node.module)
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'prunekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
