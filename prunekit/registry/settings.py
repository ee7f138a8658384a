"""The settings of a component from what a recipe holds; apart, as names alone need no pydantic."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, Protocol

from pydantic import ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from prunekit.errors import PluginError, PrunekitError
from prunekit.foundation.plain import kind_of
from prunekit.foundation.values import ComponentConfig, as_values, name_only
from prunekit.registry.foreign import reason
from prunekit.registry.installed import (
    AmbiguousNameError,
    Component,
    UnknownNameError,
    import_object,
)


class NamedConfigs(Protocol):
    """What a registry is asked here."""

    kind: str
    config: str
    """`module:Class` that its configs inherit from."""

    def component(self, name: str) -> Component:
        """What a name stands for."""

    def config_class(self, name: str) -> type[ComponentConfig]:
        """Its settings."""


def parse_settings(known: NamedConfigs, value: Any, as_of: int | None) -> ComponentConfig:
    """The config of the component that a value names.

    Raises:
        ValidationError, PluginError: see `Registry.parse`.
    """
    if isinstance(value, ComponentConfig):
        config_base: type[ComponentConfig] = import_object(known.config)
        if not isinstance(value, config_base):
            raise ValueError(f"must be the settings of a {known.kind}")
        return value
    settings = as_values(name_only(value))
    if not isinstance(settings, dict):
        raise ValueError(
            f"must be a mapping with the `name` of a {known.kind}, not {kind_of(value)}"
        )
    return _read(known, _named(known, settings), settings, as_of)


def parse_with_place(known: NamedConfigs, value: Any, as_of: int | None) -> ComponentConfig:
    """`parse_settings`, with a PluginError as an error that pydantic gives a place."""
    try:
        return parse_settings(known, value, as_of)
    except PluginError as error:
        context = {"why": str(error), "cause": error}
        raise PydanticCustomError("plugin", "{why}", context) from error


def _named(known: NamedConfigs, settings: dict[str, Any]) -> type[ComponentConfig]:
    name = settings.get("name")
    if not isinstance(name, str):
        raise _at_name(known, "string_type" if "name" in settings else "missing", name)
    try:
        return known.config_class(name)
    except UnknownNameError as error:
        problem = PydanticCustomError("name", "{why}", {"why": str(error)})
        raise _at_name(known, problem, name) from None
    except AmbiguousNameError as error:  # what is installed is at fault, not the recipe
        context = {"why": str(error), "cause": PluginError(str(error))}
        problem = PydanticCustomError("plugin", "{why}", context)
        raise _at_name(known, problem, name) from None


def _at_name(
    known: NamedConfigs, problem: str | PydanticCustomError, value: object
) -> ValidationError:
    line = InitErrorDetails(type=problem, loc=("name",), input=value)
    return ValidationError.from_exception_data(known.kind, [line], hide_input=True)


def _read(
    known: NamedConfigs, config: type[ComponentConfig], settings: dict[str, Any], as_of: int | None
) -> ComponentConfig:
    try:
        context = {"as_of": as_of}
        return config.model_validate(settings, context=context)
    except (ValidationError, PluginError):
        raise
    except PrunekitError as error:  # pydantic gives a ValueError its place
        raise ValueError(str(error)) from error
    except Exception as error:
        name = known.component(settings["name"])
        raise PluginError(f"{name} fails while it reads its settings: {reason(error)}") from error


@cache
def config_named(
    config: type[ComponentConfig], name: str, module: str | None = None
) -> type[ComponentConfig]:
    """The same settings, allowing this name alone.

    Args:
        config: the settings.
        name: the one name.
        module: that the new class says it is of; None = that of `config`.
    """
    annotation: Any = Literal.__getitem__(name)
    return create_model(
        config.__name__,
        __base__=config,
        __module__=module or config.__module__,
        name=(annotation, ...),
    )
