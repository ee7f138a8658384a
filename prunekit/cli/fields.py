"""The fields of a settings class in words: type, default, bounds, meaning."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prunekit.foundation.field_texts import field_text
from prunekit.foundation.timeline import Duration
from prunekit.registry import REGISTRIES
from prunekit.registry.values import Chosen


def describe_fields(config: type[BaseModel]) -> list[dict[str, Any]]:
    """Each field as plain values, the ones that must be given first."""
    fields = [
        {
            "name": name,
            "type": type_text(info.annotation, info.metadata),
            "required": info.is_required(),
            "default": plain(default_of(info)),
            "bounds": bounds_text(info.metadata),
            "description": " ".join(field_text(config, name).split()),
        }
        for name, info in config.model_fields.items()
        if name != "name"
    ]
    return sorted(fields, key=lambda field: not field["required"])


def default_of(info: FieldInfo) -> Any:
    """The default, None where there is none."""
    return None if info.is_required() else info.get_default(call_default_factory=True)


def type_text(annotation: Any, marks: Sequence[Any] = ()) -> str:
    """A type as a recipe's author thinks of it.

    Args:
        annotation: the type.
        marks: what annotates it.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return type_text(args[0], args[1:])
    if mark := next((mark for mark in marks if isinstance(mark, Chosen)), None):
        return chosen_text(mark)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(arg) for arg in args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{{{type_text(args[0])}: {type_text(args[1])}, ...}}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return sequence_text(args)
    return class_text(annotation)


def chosen_text(mark: Chosen) -> str:
    """What prunekit has of a kind, and the names that others give; those are not imported."""
    registry = REGISTRIES[mark.kind]
    known = [component for component in registry.components() if component.builtin]
    forms = dict.fromkeys(registry.config_class(component.name) for component in known)
    others = [n for n in registry.names() if not registry.component(n).builtin]
    return " | ".join([*(group_text(form) for form in forms if mark.takes(form)), *others])


def sequence_text(args: tuple[Any, ...]) -> str:
    """A list of any length, or of a fixed one."""
    if len(args) == 1 or args[-1] is Ellipsis:
        return f"[{type_text(args[0])}, ...]"
    return f"[{', '.join(type_text(arg) for arg in args)}]"


def class_text(annotation: Any) -> str:
    """A plain class; a value of several keys by its names or its keys."""
    if annotation is None or annotation is type(None):
        return "null"
    if annotation is Duration:
        return "duration"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return group_text(annotation)
    return getattr(annotation, "__name__", str(annotation))


def group_text(config: type[BaseModel]) -> str:
    """`{every, stop}`, or with the names it may have `cosine {start, stop}`."""
    keys = dict(config.model_fields)
    name = keys.pop("name") if is_named(config) else None
    shown = [type_text(name.annotation)] if name else []
    return " ".join([*shown, *([f"{{{', '.join(keys)}}}"] if keys else [])])


def is_named(config: type[BaseModel]) -> bool:
    """Whether its `name` says which of several it is."""
    name = config.model_fields.get("name")
    return name is not None and get_origin(name.annotation) is typing.Literal


def bounds_text(metadata: Sequence[Any]) -> str:
    """`>= 0, < 1`; empty without bounds."""
    signs = {
        annotated_types.Ge: (">=", "ge"),
        annotated_types.Gt: (">", "gt"),
        annotated_types.Le: ("<=", "le"),
        annotated_types.Lt: ("<", "lt"),
        annotated_types.MinLen: ("length >=", "min_length"),
        annotated_types.MaxLen: ("length <=", "max_length"),
    }
    found = [(*signs[type(item)], item) for item in metadata if type(item) in signs]
    return ", ".join(f"{sign} {getattr(item, key)}" for sign, key, item in found)


def plain(value: Any) -> Any:
    """A default as JSON values; a value that was made by its name alone is that name."""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        return given["name"] if set(given) == {"name"} else value.model_dump(mode="json")
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
