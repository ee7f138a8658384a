"""Whether an imported class is the component that it was announced as."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from prunekit.components.installed import Component, import_object
from prunekit.errors import PluginError
from prunekit.foundation.values import ComponentConfig


def checked_config(
    component: Component, cls: Any, base: str, config_base: str
) -> type[ComponentConfig]:
    """The config class of a component's class.

    Args:
        component: where the class comes from.
        cls: what its import gave.
        base: `module:Class` that it must inherit from.
        config_base: `module:Class` that its `Config` must inherit from; the same as `base` where a
            class is its own config.

    Raises:
        PluginError: another base, an abstract method left, no fitting `Config`, another name.
    """
    ancestor = import_object(base)
    if not (isinstance(cls, type) and issubclass(cls, ancestor)):
        raise PluginError(f"{component}: {component.value} is no {ancestor.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{component}: {cls.__name__} does not define {', '.join(missing)}")
    config = cls if base == config_base else getattr(cls, "Config", None)
    ancestor = import_object(config_base)
    if not (isinstance(config, type) and issubclass(config, ancestor)):
        raise PluginError(f"{component}: its Config is no {ancestor.__name__}")
    _check_name(component, config)
    return config


def _check_name(component: Component, config: type[ComponentConfig]) -> None:
    annotation = config.model_fields["name"].annotation
    allowed = get_args(annotation) if get_origin(annotation) is Literal else (component.name,)
    if component.name not in allowed:
        raise PluginError(f"{component}: its config allows only the name {allowed[0]!r}")
