"""The settings of a component, as a recipe and its copy in the run directory hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from prunekit.foundation.values import ComponentConfig, as_values
from prunekit.registry.sentences import one_line, problems_in
from prunekit.testing.faults import ConformanceError


def checked_settings(
    cls: Any, config: ComponentConfig | Mapping[str, Any], base: type, config_base: type
) -> Any:
    """The settings as an instance of `cls.Config`, after all that must hold of them was checked.

    Args:
        cls: the component.
        config: its settings, or the mapping of a recipe; there `name` may be left out.
        base: what the component inherits from.
        config_base: what its `Config` inherits from; `base`, where a class is its own settings.

    Raises:
        ConformanceError: class or settings break the contract.
    """
    who = getattr(cls, "__name__", repr(cls))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConformanceError(f"{who} does not inherit from {base.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ConformanceError(f"{who} does not define {', '.join(missing)}")
    own = cls if base is config_base else getattr(cls, "Config", None)
    if not (isinstance(own, type) and issubclass(own, config_base)):
        raise ConformanceError(f"{who}.Config does not inherit from {config_base.__name__}")
    made = config if isinstance(config, ComponentConfig) else _parsed(own, config, who)
    if not isinstance(made, own):
        raise ConformanceError(f"the settings are a {type(made).__name__}, no {who}.Config")
    _check_value(own, made, who)
    return made


def _parsed(own: Any, settings: Mapping[str, Any], who: str) -> ComponentConfig:
    names = get_args(own.model_fields["name"].annotation)
    tree = as_values({"name": names[0] if names else who.lower(), **settings})
    try:
        made: ComponentConfig = own.model_validate(tree)
    except ValidationError as error:
        told = one_line(problems_in(error, tree, own))
        raise ConformanceError(f"{who}.Config refuses these settings: {told}") from error
    return made


def _check_value(own: Any, made: ComponentConfig, who: str) -> None:
    """Through JSON and back, immutable, no unknown key."""
    try:
        tree = json.loads(json.dumps(made.model_dump(mode="json"), allow_nan=False))
        back = own.model_validate(as_values(tree))
    except Exception as error:  # whatever a field's own code raises
        raise ConformanceError(
            f"{who}.Config does not come back from JSON ({type(error).__name__}: {error})"
        ) from error
    for field in own.model_fields:
        was, now = getattr(made, field), getattr(back, field)
        if was != now:
            raise ConformanceError(
                f"{who}.Config.{field} does not come back from JSON: {was!r} became {now!r}"
            )
    if not own.model_config.get("frozen"):
        raise ConformanceError(f"{who}.Config can be changed: leave model_config frozen")
    if own.model_config.get("extra") != "forbid":
        raise ConformanceError(f"{who}.Config takes unknown keys: leave model_config extra=forbid")
