"""What is installed under a name: found from metadata, imported one at a time, only when asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from typing import Any

from prunekit.errors import PluginError

KINDS = {
    "prunekit.strategies": "strategy",
    "prunekit.compressors": "compressor",
    "prunekit.models": "model",
    "prunekit.datasets": "dataset",
    "prunekit.probes": "probe",
    "prunekit.recipes": "recipe folder",
}
"""Entry point group -> the kind of its components."""
RECIPES = KINDS["prunekit.recipes"]


@dataclass(frozen=True, slots=True)
class Component:
    """A name and the class that it stands for, not imported yet."""

    kind: str
    name: str
    value: str
    """`module:Class`; of a folder of recipes `package.folder`, of a recipe its file."""
    distribution: str
    version: str
    builtin: bool

    @property
    def qualified(self) -> str:
        """`distribution:name`, which tells apart two components of one name."""
        return f"{self.distribution}:{self.name}"

    @property
    def origin(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".rstrip()

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.origin}"


@lru_cache(maxsize=1)
def own_version() -> str:
    """The version of the installed prunekit; empty where it runs uninstalled."""
    try:
        return version("prunekit")
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def installed_components(search_path: tuple[str, ...]) -> tuple[Component, ...]:
    """The components of third parties, from the metadata of what is installed.

    Args:
        search_path: `sys.path`; the answer is kept until it changes.
    """
    found: dict[str, list[Component]] = {}
    for distribution in distributions():
        try:
            components = list(_components_of(distribution))
            key = re.sub(r"[-_.]+", "-", distribution.name).lower()
        except Exception:  # another package's broken metadata must not stop this one
            continue
        if key and components:  # of two copies on the path Python imports the first
            found.setdefault(key, components)
    return tuple(component for components in found.values() for component in components)


def _components_of(distribution: Distribution) -> Iterator[Component]:
    for point in distribution.entry_points:
        if point.group in KINDS:
            yield Component(
                kind=KINDS[point.group],
                name=point.name,
                value=point.value.partition("[")[0].strip(),
                distribution=distribution.name,
                version=distribution.version,
                builtin=False,
            )


def import_object(value: str) -> Any:
    """The object that `module:attribute` names."""
    module, _, attribute = value.partition(":")
    return reduce(getattr, attribute.split("."), import_module(module))


def import_component(component: Component) -> Any:
    """Import what a component names.

    Raises:
        PluginError: its module does anything but import, `sys.exit()` included.
    """
    try:
        return import_object(component.value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"{component} ({component.value}) cannot be imported: {reason(error)}"
        ) from error


def reason(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
