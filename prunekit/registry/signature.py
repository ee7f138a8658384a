"""A signature as settings: the parameters of a class or function become the keys of a config."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, create_model

from prunekit.errors import PluginError
from prunekit.foundation.plain import shown
from prunekit.foundation.values import ComponentConfig, Frozen
from prunekit.registry.foreign import reason
from prunekit.registry.installed import OWN_MODULE
from prunekit.registry.parameter_types import (
    SCALARS,
    UnreadableError,
    as_argument,
    as_setting,
    readable,
)

Made = TypeVar("Made", bound="SignatureConfig")


class _FaultError(Exception):
    """A parameter that no default excuses."""


@dataclass(frozen=True)
class Signature:
    """What a class or function of a user's own asks for."""

    made_by: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Parameter -> its type, of those that a recipe sets."""
    filled: tuple[str, ...] = ()
    """Parameters that the data fills in."""

    def call(self, config: ComponentConfig, given: Mapping[str, Any]) -> Any:
        """Make the object.

        Args:
            config: the settings.
            given: values of other parameters; those that are not asked for are left out.
        """
        positional, named = [], {}
        for name, parameter in self.parameters.items():
            if name in given:
                value = given[name]
            elif name in self.settings:
                value = as_argument(self.settings[name], getattr(config, name))
            else:  # has a default that no recipe can write
                value = parameter.default
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[name] = value
        return self.made_by(*positional, **named)


class SignatureConfig(ComponentConfig):
    """The settings of a plain class or function."""

    signature: ClassVar[Signature]
    """What is called with them."""


def settings_from(
    made_by: Callable[..., Any],
    base: type[Made],
    name: str,
    given: Sequence[str] = (),
    shared: Sequence[str] = (),
    *,
    bare: bool = False,
) -> type[Made]:
    """The config whose keys are the parameters of a class or function.

    A parameter without a type takes that of its default. One that no YAML value can be, as a class
    of layers, keeps its default and is no setting.

    Args:
        made_by: the class or function.
        base: what the config inherits from.
        name: the name in a recipe.
        given: parameters that are filled in and are no settings.
        shared: keys of `base` that a parameter may ask for.
        bare: whether it takes nothing, whatever its signature says.

    Raises:
        PluginError: a signature that cannot be settings, with its file and line.
    """
    parameters = {} if bare else _parameters(made_by)
    asked = [one for key, one in parameters.items() if key not in given]
    fields, types = _fields(made_by, asked, base, shared)
    literal: Any = Literal.__getitem__(name)
    config = create_model(
        made_by.__name__,
        __base__=base,
        __module__=made_by.__module__,
        __doc__=own_docstring(made_by),
        name=(literal, ...),
        **fields,
    )
    filled = tuple(key for key in parameters if key in given)
    config.signature = Signature(made_by, parameters, types, filled)
    return config


def _parameters(made_by: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(made_by, eval_str=True).parameters)
    except Exception as error:  # whatever an annotation does
        place = place_of(made_by)
        raise PluginError(f"{place}: its signature cannot be read: {reason(error)}") from error


def _fields(
    made_by: Callable[..., Any],
    parameters: Sequence[inspect.Parameter],
    base: type[ComponentConfig],
    shared: Sequence[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the config, and the types of those parameters that a recipe can write."""
    meant = _meanings(made_by)
    fields: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for parameter in parameters:
        key = parameter.name
        try:
            _check_kind(parameter, base, shared)
            annotated = _type_of(parameter)
            kind, default = _field(parameter, annotated)
        except _FaultError as error:
            raise PluginError(f"{place_of(made_by)}: {error}") from None
        except UnreadableError as error:
            if parameter.default is parameter.empty or key in shared:
                raise PluginError(f"{place_of(made_by)}: {error}") from None
            continue  # it keeps its default
        types[key] = annotated
        fields[key] = kind, Field(default=default, description=meant.get(key))
    return fields, types


def _check_kind(
    parameter: inspect.Parameter, base: type[ComponentConfig], shared: Sequence[str]
) -> None:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        raise _FaultError(f"{star}{name} names no settings: write each as a parameter of its own")
    if name.startswith("_"):
        raise UnreadableError(f"{name!r} begins with _, which no key of a recipe does: rename it")
    if (hasattr(base, name) or name in base.model_fields) and name not in shared:
        raise _FaultError(
            f"a parameter cannot be called {name!r}, which means something else in a recipe: "
            "give it another name"
        )


def _type_of(parameter: inspect.Parameter) -> Any:
    """The annotation; without one, the type of the default."""
    name, default = parameter.name, parameter.default
    if parameter.annotation is not parameter.empty:
        found = parameter.annotation
        return found | None if default is None and isinstance(found, type | UnionType) else found
    if default is parameter.empty:
        raise UnreadableError(f"{name!r} has neither a type nor a default: write {name}: int")
    if default is None:
        return Any
    return _type_of_value(default)


def _type_of_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        kinds = {type(item) for item in value}
        kind: Any = kinds.pop() if len(kinds) == 1 else Any
        kind = kind if kind in SCALARS else Any
        return list[kind] if isinstance(value, list) else tuple[kind, ...]
    return type(value)


def own_docstring(made_by: Callable[..., Any]) -> str:
    """The docstring of a class or function itself, not one that it inherits."""
    text = vars(made_by).get("__doc__") if inspect.isclass(made_by) else made_by.__doc__
    return inspect.cleandoc(text or "")


def _meanings(made_by: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> its first line under `Args:` in the docstring of the class or its `__init__`."""
    texts = [inspect.getdoc(one) or "" for one in (made_by, getattr(made_by, "__init__", None))]
    found: dict[str, str] = {}
    for text in texts:
        part = text.partition("Args:\n")[2].partition("\n\n")[0]
        found |= dict(re.findall(r"^ +(\w+)(?: \([^)]*\))?: (.+)$", part, re.M))
    return found


def _field(parameter: inspect.Parameter, annotation: Any) -> tuple[Any, Any]:
    kind = readable(annotation, parameter.name)
    if parameter.default is parameter.empty:
        return kind, ...
    one: type[Frozen] = create_model("_", __base__=Frozen, value=(kind, ...))
    try:
        default = one.model_validate({"value": as_setting(parameter.default)})
    except ValidationError:
        plain = isinstance(parameter.default, (*SCALARS, list, tuple, dict, type(None)))
        raise (_FaultError if plain else UnreadableError)(
            f"{parameter.name!r} has the default {shown(parameter.default)}, which is not of its "
            "type in a recipe"
        ) from None
    return kind, default.value  # type: ignore[attr-defined]


def gives(function: Callable[..., Any]) -> Any:
    """What a function says that it returns; None where that cannot be read or is not there."""
    try:
        found = inspect.signature(function, eval_str=True).return_annotation
    except Exception:  # whatever an annotation does
        return None
    return None if found is inspect.Signature.empty else found or type(None)


def told_with_line(error: BaseException) -> str:
    """An error in one line, with the line of the user's own file where it came from."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__")).startswith(OWN_MODULE):
            return f"{Path(frame.f_code.co_filename).name}:{line}: {reason(error)}"
    return reason(error)


def place_of(made_by: Callable[..., Any]) -> str:
    """`my_net.py:12: TinyNet`: where its parameters are written."""
    function = made_by if inspect.isfunction(made_by) else vars(made_by).get("__init__")
    code = getattr(function, "__code__", None)
    where = ""
    if code is not None and not code.co_filename.startswith("<"):
        where = f"{Path(code.co_filename).name}:{code.co_firstlineno}: "
    return f"{where}{made_by.__qualname__}"
