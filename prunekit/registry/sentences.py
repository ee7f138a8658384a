"""pydantic's errors as sentences: what is wrong with some values, and at which key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prunekit.errors import PluginError
from prunekit.foundation.plain import KeyPath, at_path, dotted, flow, has_path, kind_of, shown
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.values import ComponentConfig, named_defaults
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.settings import NamedConfigs
from prunekit.registry.values import registry_in

WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
    "finite_number": "finite",
}
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with some values."""

    path: KeyPath
    what: str
    of_key: bool = False
    """Whether the key itself is wrong, and not its value."""


def problems_in(
    error: ValidationError,
    tree: Any,
    config: type[BaseModel],
    unread: Collection[KeyPath] = (),
) -> list[Problem]:
    """Every error by its key; several at one place, from a union, become one.

    Args:
        error: what reading `tree` gave.
        tree: the values as written; a component is known by its `name`.
        config: the class that reads them.
        unread: paths whose values mean nothing.
    """
    found: dict[KeyPath, list[Problem]] = {}
    for details in error.errors(include_url=False, include_input=False):
        path = _written_path(details["loc"], details["type"], tree)
        if _untrue(details, path, tree, unread):
            continue
        problem = _problem(details, path, tree, config)
        if problem.what not in [other.what for other in found.get(path, [])]:
            found.setdefault(path, []).append(problem)
    return [_merged(problems) for problems in found.values()]


def one_line(problems: Sequence[Problem]) -> str:
    """All of them, each with its key."""
    told = [(dotted(problem.path), problem.what) for problem in problems]
    return "; ".join(f"{key}: {what}" if key else what for key, what in told)


def _untrue(details: ErrorDetails, path: KeyPath, tree: Any, unread: Collection[KeyPath]) -> bool:
    """Whether an error only follows from another: an unread value, or list items left out."""
    if any(path[: len(other)] == other for other in unread):
        return True
    value = at_path(tree, path)
    return (
        details["type"] == "too_short"
        and isinstance(value, list | tuple)
        and len(value) >= details["ctx"]["min_length"]
    )


def _written_path(loc: KeyPath, kind: str, tree: Any) -> KeyPath:
    """A pydantic location without what only names a member of a union."""
    if kind == "conflict":  # a recipe's own, about parts that may be no plain values
        return loc
    path: KeyPath = ()
    for i, key in enumerate(loc):
        missing = kind == "missing" and i == len(loc) - 1
        if missing or has_path(tree, (*path, key)):
            path = (*path, key)
    return (*path, "name") if kind == "union_tag_not_found" else path


def _merged(problems: list[Problem]) -> Problem:
    first = problems[0]
    what = "; or it ".join(problem.what for problem in problems)
    return Problem(first.path, what, first.of_key)


def _problem(details: ErrorDetails, path: KeyPath, tree: Any, config: type[BaseModel]) -> Problem:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path, tree, config), of_key=True)
    if kind in ("missing", "union_tag_not_found"):
        return Problem(path, "missing: it has no default" + _example(path, tree, config))
    if kind == "union_tag_invalid":
        name = (*path, "name") if isinstance(at_path(tree, path), dict) else path
        return Problem(name, _unknown_word(context["tag"], context["expected_tags"]))
    return Problem(path, _wrong_value(details, at_path(tree, path)))


def _example(path: KeyPath, tree: Any, config: type[BaseModel]) -> str:
    owner = config_at(config, tree, path[:-1])
    field = owner.model_fields.get(str(path[-1])) if owner else None
    return f", such as {path[-1]}: {flow(field.examples[0])}" if field and field.examples else ""


def _unknown_key(path: KeyPath, tree: Any, config: type[BaseModel]) -> str:
    key, parent = str(path[-1]), path[:-1]
    reader = config_at(config, tree, parent)
    if reader is None:
        return "unknown key"
    name = at_path(tree, (*parent, "name"))
    owner = f" of {shown(name)}" if is_chosen_by_name(reader) and isinstance(name, str) else ""
    known = list(reader.model_fields)
    near = did_you_mean(key, known)
    return f"unknown key{owner}.{near or ' Known: ' + ', '.join(known)}"


def _unknown_word(word: object, expected: str) -> str:
    known = re.findall(r"'([^']*)'", expected)
    near = did_you_mean(word, known) if isinstance(word, str) else ""
    return f"must be {_either(known)}, not {shown(word)}.{near}"


def _either(words: list[str]) -> str:
    quoted = [repr(word) for word in words]
    return " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def _bound(value: float) -> str:
    """Whole numbers with all their digits."""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _wrong_value(details: ErrorDetails, value: Any) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in WANTED:
        return f"must be {WANTED[kind]}, not {kind_of(value)}"
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f"must be {words} {_bound(context[bound])}, not {shown(value)}"
    if kind == "literal_error" and isinstance(value, str):
        return _unknown_word(value, context["expected"])
    if kind in ("too_short", "too_long"):
        return _wrong_length(kind, context)
    if kind in ("value_error", "assertion_error"):
        return " ".join(str(context["error"]).split())
    return _plain(details["msg"], value)


def _wrong_length(kind: str, context: Mapping[str, Any]) -> str:
    bound, words = (
        (context["min_length"], "at least")
        if kind == "too_short"
        else (context["max_length"], "at most")
    )
    return (
        f"must have {words} {bound} item{'' if bound == 1 else 's'}, not {context['actual_length']}"
    )


def _plain(message: str, value: Any) -> str:
    """What pydantic, or another's validator, says of a rarer error."""
    text = " ".join(message.split())
    subject, should, wish = text.partition(" should ")
    return f"must {wish}, not {kind_of(value)}" if should and subject.isalpha() else text


def config_at(config: type[BaseModel], tree: Any, path: KeyPath) -> type[BaseModel] | None:
    """The class that reads the mapping at `path`; None where none is known to.

    Args:
        config: the class of the whole.
        tree: the values as written; a component is known by its `name`.
        path: keys and list positions.
    """
    annotation: Any = config
    node = tree
    for key in path:
        model, default = _choose(annotation, node), None
        if model is not None and key in model.model_fields:
            field = model.model_fields[key]
            annotation = _annotated(field.annotation, field.metadata)
            default = named_defaults(model).get(str(key))
        elif isinstance(key, int):
            annotation = next((a for a in _members(annotation) if get_origin(a) is tuple), None)
            annotation = get_args(annotation)[0] if annotation else None
        elif found := next((a for a in _members(annotation) if get_origin(a) is dict), None):
            annotation = get_args(found)[1]
        else:
            return None
        node = node[key] if isinstance(node, dict) or isinstance(key, int) else None
        if default and isinstance(node, dict):  # which may leave its name out
            node = {**default, **node}
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
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    if (registry := registry_in(marks)) is not None:
        return _registered(registry, name)
    models = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    if len(models) == 1:
        return models[0]
    return next((m for m in models if name in _names(m)), None)


def _registered(registry: NamedConfigs, name: Any) -> type[BaseModel] | None:
    try:
        return registry.config_class(name) if isinstance(name, str) else None
    except (UnknownNameError, AmbiguousNameError, PluginError):
        return None


def is_chosen_by_name(config: type[BaseModel]) -> bool:
    """Whether a mapping is read by this class because of its `name`."""
    return issubclass(config, ComponentConfig) or bool(_names(config))


def _names(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
