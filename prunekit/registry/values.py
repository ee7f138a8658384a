"""A key of a component that takes another by its name, as the `structure` of a strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import GetJsonSchemaHandler

from prunekit.foundation.values import ComponentConfig, looks_up
from prunekit.registry import REGISTRIES
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.settings import NamedConfigs

KIND = "x-prunekit-kind"
"""Where the schema of a key says of which kind its value is."""


class Chosen:
    """Marks such a key for who shows what it takes: `Annotated[.., Chosen("structure")]`."""

    def __init__(self, kind: str, **only: bool) -> None:
        """Name the kind.

        Args:
            kind: of the registry.
            only: attribute of the class -> the value that it must have to be taken.
        """
        self.kind, self.only = kind, only

    def takes(self, config: type[Any]) -> bool:
        """Whether the key takes values of this class."""
        return all(getattr(config, name) == value for name, value in self.only.items())

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A name, or a mapping with one; `recipe/json_schema.py` puts all that are known there."""
        named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        return {"anyOf": [{"type": "string"}, named], KIND: {"kind": self.kind, "only": self.only}}


def registry_in(marks: Iterable[Any]) -> NamedConfigs | None:
    """The names by which the value of a key is chosen, mostly a registry; None where it is not.

    Args:
        marks: what annotates its type.
    """
    found: NamedConfigs | None = looks_up(marks)
    return found


def plugins_in(settings: ComponentConfig) -> list[str]:
    """What stands in the keys of a component and is not prunekit's own, with its distribution."""
    found = []
    for key, field in type(settings).model_fields.items():
        mark = next((mark for mark in field.metadata if isinstance(mark, Chosen)), None)
        if mark is None:
            continue
        name, cls = getattr(settings, key).name, type(getattr(settings, key))
        try:
            component = REGISTRIES[mark.kind].component(name)
        except (UnknownNameError, AmbiguousNameError):  # a class that no one registered
            found.append(f"{mark.kind} {name!r} ({cls.__module__}.{cls.__qualname__})")
        else:
            found += [] if component.builtin else [str(component)]
    return found
