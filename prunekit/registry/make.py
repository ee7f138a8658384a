"""Components made in Python, by their name and the settings of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from prunekit.errors import PrunekitError, SettingsError
from prunekit.foundation.values import as_values
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.lookup import Registry
from prunekit.registry.sentences import one_line, problems_in


def make(registry: Registry, name: str, settings: Mapping[str, Any]) -> Any:
    """The component of this name with these settings: a strategy, compressor or probe.

    Raises:
        SettingsError: an unknown name, or settings that its `Config` refuses: all of them in one
            line, each with its key and what was meant.
        PluginError: its module could not be imported, or fails in its constructor.
    """
    tree = {"name": name, **settings}
    try:
        return registry.create(registry.parse(tree))
    except ValidationError as error:
        raise SettingsError(_line(registry, tree, error)) from None
    except PrunekitError:
        raise
    except ValueError as error:
        raise SettingsError(f"{registry.kind} {name!r}: {error}") from error


def _line(registry: Registry, tree: dict[str, Any], error: ValidationError) -> str:
    name = tree["name"]
    try:
        config = registry.config_class(name) if isinstance(name, str) else None
    except (UnknownNameError, AmbiguousNameError) as unknown:
        return str(unknown)
    if config is None:
        return f"the name of a {registry.kind} must be text, not {type(name).__name__}"
    told = one_line(problems_in(error, as_values(tree), config))
    return f"{registry.kind} {name!r}: {told}"
