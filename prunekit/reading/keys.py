"""Which keys a mapping in a recipe may have: those of the config class that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator

from prunekit.components.names import AmbiguousNameError, UnknownNameError
from prunekit.components.registry import Registry
from prunekit.errors import PluginError
from prunekit.foundation.values import ComponentConfig
from prunekit.reading.document import Path


def config_at(recipe: type[BaseModel], tree: Any, path: Path) -> type[BaseModel] | None:
    """The class that reads the mapping at `path`; None where none is known to.

    Args:
        recipe: the class of the whole.
        tree: the recipe as written; a component is known by its `name`.
        path: keys and list positions.
    """
    annotation: Any = recipe
    node = tree
    for key in path:
        model = _choose(annotation, node)
        if model is not None and key in model.model_fields:
            field = model.model_fields[key]
            annotation = _annotated(field.annotation, field.metadata)
        elif isinstance(key, int):
            annotation = next((a for a in _members(annotation) if get_origin(a) is tuple), None)
            annotation = get_args(annotation)[0] if annotation else None
        elif found := next((a for a in _members(annotation) if get_origin(a) is dict), None):
            annotation = get_args(found)[1]
        else:
            return None
        node = node[key] if isinstance(node, dict) or isinstance(key, int) else None
    return _choose(annotation, node)


def _annotated(annotation: Any, metadata: list[Any]) -> Any:
    return Annotated[annotation, *metadata] if metadata else annotation


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, without what annotates them."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif isinstance(annotation, type) or get_origin(annotation) in (tuple, dict):
        yield annotation
    else:
        for member in get_args(annotation):
            yield from _members(member)


def _choose(annotation: Any, node: Any) -> type[BaseModel] | None:
    """The config class for a value: by its registry, by its name, or the only one there is."""
    name = node.get("name") if isinstance(node, dict) else node
    for mark in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        registry = getattr(getattr(mark, "func", None), "__self__", None)
        if isinstance(mark, BeforeValidator) and isinstance(registry, Registry):
            return _registered(registry, name)
    models = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    if len(models) == 1:
        return models[0]
    return next((m for m in models if name in _names(m)), None)


def _registered(registry: Registry[Any], name: Any) -> type[BaseModel] | None:
    try:
        return registry.config_class(name) if isinstance(name, str) else None
    except (UnknownNameError, AmbiguousNameError, PluginError):
        return None


def is_chosen_by_name(config: type[BaseModel]) -> bool:
    """Whether a mapping is read by this class because of its `name`."""
    return issubclass(config, ComponentConfig) or bool(_names(config))


def _names(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
