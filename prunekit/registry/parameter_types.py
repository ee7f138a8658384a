"""Types of parameters, and those that read them from a recipe: tuples for lists, text for paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import TypeAliasType

SCALARS = (bool, int, float, str)
LISTS = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)
Plain = TypeAliasType(
    "Plain",
    "bool | int | float | str | tuple[Plain, ...] | dict[str, Plain] | None",
)
"""Whatever YAML can say."""


class UnreadableError(Exception):
    """No value of YAML is of this type."""


def readable(annotation: Any, name: str) -> Any:
    """The type that reads a value of `annotation` from YAML: tuples for lists, text for paths.

    Of a union, the members that can be read.

    Args:
        annotation: of a parameter.
        name: of the parameter.

    Raises:
        UnreadableError: none can.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in SCALARS:
        return annotation
    if annotation is Any:
        return Plain
    if annotation is None or annotation is type(None):
        return None
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return str
    if origin is Annotated:
        return Annotated[(readable(args[0], name), *args[1:])]
    if origin is Literal and all(isinstance(arg, (*SCALARS, type(None))) for arg in args):
        return annotation
    if origin in (Union, UnionType):
        return _readable_union(args, name)
    if (origin or annotation) in LISTS or (origin or annotation) in MAPPINGS:
        return _readable_group(origin or annotation, args, name)
    raise UnreadableError(
        f"{name!r} is a {getattr(annotation, '__name__', annotation)}, which no recipe can write: "
        "give it a default, or take numbers, texts or lists"
    )


def _readable_union(args: Sequence[Any], name: str) -> Any:
    found = []
    for arg in args:
        try:
            found.append(readable(arg, name))
        except UnreadableError as error:
            refused = error
    if not [one for one in found if one is not None]:
        raise refused
    return Union[tuple(found)]  # noqa: UP007 - a tuple of them


def _readable_group(origin: Any, args: Sequence[Any], name: str) -> Any:
    if origin in MAPPINGS:
        if args and args[0] is not str:
            raise UnreadableError(f"{name!r} is a mapping whose keys are no texts")
        inner = readable(args[1], name) if args else Plain
        return dict[str, inner]  # type: ignore[valid-type]
    if origin is tuple and args and args[-1] is not Ellipsis:
        return tuple[tuple(readable(arg, name) for arg in args)]  # type: ignore[misc]
    inner = readable(args[0], name) if args else Plain
    return tuple[inner, ...]  # type: ignore[valid-type]


def as_setting(value: Any) -> Any:
    """A default as a recipe holds it: lists are tuples, paths are text."""
    if isinstance(value, list | tuple):
        return tuple(as_setting(item) for item in value)
    if isinstance(value, dict):
        return {key: as_setting(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def as_argument(annotation: Any, value: Any) -> Any:
    """A setting as the parameter wants it: the lists, tuples and paths of its annotation."""
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return as_argument(args[0], value)
    if origin in (Union, UnionType):
        return as_argument(_member_for(args, value), value)
    if isinstance(value, tuple):
        items = [as_argument(kind, item) for kind, item in _with_kinds(origin, args, value)]
        return items if origin in (list, Any, Plain) else tuple(items)
    if isinstance(value, dict):
        kind = args[1] if len(args) > 1 else Any
        return {key: as_argument(kind, item) for key, item in value.items()}
    if isinstance(value, str) and isinstance(origin, type) and issubclass(origin, Path):
        return Path(value)
    return value


def _with_kinds(origin: Any, args: Sequence[Any], value: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    if origin is tuple and args and args[-1] is not Ellipsis:
        return list(zip(args, value, strict=True))
    return [(args[0] if args else Any, item) for item in value]


def _member_for(args: Sequence[Any], value: Any) -> Any:
    """The member of a union that a setting was read by, as far as it matters."""
    wanted: tuple[Any, ...] = (type(value),)
    if isinstance(value, tuple):
        wanted = LISTS
    elif isinstance(value, dict):
        wanted = MAPPINGS
    origins = {(get_origin(arg) or arg): arg for arg in args}
    found = next((arg for origin, arg in origins.items() if origin in wanted), None)
    if found is None and isinstance(value, str):
        paths = [a for a in args if isinstance(a, type) and issubclass(a, Path)]
        found = paths[0] if paths else None
    return Any if found is None else found
