"""The base of every value that a recipe can hold, and how an error names one. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)

from prunekit.errors import RecipeError
from prunekit.foundation.field_texts import field_text
from prunekit.foundation.system import pointed_at

RECIPE_FORMAT = 3
"""The format of the recipes that this version writes: raise it with a release that adds a key or
changes a default, and mark the field with it."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """Marks a key that recipes did not have at first: `Annotated[bool, NewKey(2, before=False)]`.

    Where it has the value `before` it is no part of a hash, so that a run of earlier keeps its own;
    and a recipe that was written out before there was the key means `before`, whatever default the
    key has now.
    """

    format: int
    """The first format that has the key."""
    before: Any
    """What runs did before, as JSON has it."""


@dataclass(frozen=True, slots=True)
class OldDefault:
    """Marks a default that was another at first: `Annotated[int, OldDefault(2, 10)] = 5`.

    A recipe of an earlier format that leaves the key out means `value`.
    """

    format: int
    """The first format with another default."""
    value: Any
    """The default until then, as JSON has it."""


class Frozen(BaseModel):
    """A value: immutable, strict, no unknown keys, no NaN or infinity.

    Sequences are tuples. Input that holds lists goes through `as_values` first, as strict tuples
    do not take lists.
    """

    model_config = ConfigDict(
        frozen=True,
        validate_default=True,  # a default may not go with what is written
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_its_format(cls, data: Any, info: ValidationInfo) -> Any:
        """Put the defaults of an earlier format where that format left keys out.

        A mapping without a name changes keys of what stands there by default.
        """
        as_of = (info.context or {}).get("as_of")
        if not isinstance(data, dict):
            return data
        earlier = {} if as_of is None else earlier_defaults(cls, as_of)
        found = {**earlier, **data}
        for key, default in named_defaults(cls).items():
            own = data.get(key)
            if isinstance(own, dict) and "name" not in own:
                found[key] = {**_as_written(name_only(earlier.get(key, default))), **own}
        return found

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of pydantic, in which the string below a field is its description."""
        schema = handler(core_schema)
        for name, found in handler.resolve_ref_schema(schema).get("properties", {}).items():
            if text := field_text(cls, name):
                found.setdefault("description", text)
        return schema


class ComponentConfig(Frozen):
    """The settings of a registered component; a subclass narrows `name` to its own literal."""

    name: str
    """The registered name."""


@cache
def earlier_defaults(config: type[BaseModel], as_of: int) -> Mapping[str, Any]:
    """Key -> its default in recipes of the format `as_of`, of the keys that have another now."""
    found = {}
    for key, field in config.model_fields.items():
        later = [m for m in field.metadata if isinstance(m, NewKey | OldDefault)]
        later = [mark for mark in later if as_of < mark.format]
        if later:  # the mark of the earliest change tells what stood before it
            first = min(later, key=lambda mark: mark.format)
            found[key] = as_values(first.before if isinstance(first, NewKey) else first.value)
        elif isinstance(field.default, BaseModel) and earlier_defaults(type(field.default), as_of):
            found[key] = _as_written(field.default)  # read again, with the defaults of that format
    return found


@cache
def named_defaults(config: type[BaseModel]) -> Mapping[str, Any]:
    """Key -> its default as it was written, of the keys whose value must say its name."""
    return {
        key: written
        for key, field in config.model_fields.items()
        if (field.discriminator == "name" or looks_up(field.metadata) is not None)
        and "name" in (written := _as_written(field.default))
    }


def looks_up(marks: Iterable[Any]) -> Any:
    """What the value of a key is chosen from by its name, as a registry; None where it is not.

    Args:
        marks: what annotates its type.
    """
    for mark in marks:
        owner = getattr(getattr(mark, "func", None), "__self__", None)
        if isinstance(mark, BeforeValidator) and hasattr(owner, "config_class"):
            return owner
    return None


def _as_written(value: Any) -> dict[str, Any]:
    """The settings that were given when `value` was made, and its name, by which it is read."""
    if not isinstance(value, BaseModel):
        return dict(value) if isinstance(value, dict) else {}
    named = {key: getattr(value, key) for key in type(value).model_fields if key == "name"}
    return {**named, **as_values(value.model_dump(mode="json", exclude_unset=True))}


def as_values(tree: Any) -> Any:
    """Return `tree` with each list turned into a tuple, at every depth."""
    if isinstance(tree, dict):
        return {key: as_values(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(as_values(item) for item in tree)
    return tree


def name_only(value: Any) -> Any:
    """Turn `"cubic"` into `{"name": "cubic"}`: a value with only a name may be a string."""
    return {"name": value} if isinstance(value, str) else value


def pinned(path: str) -> str:
    """`runs/<recipe>/latest` -> the run that it points to now; any other path as it is.

    A run that is read later, or resumed, must not follow a link that has moved on.
    """
    return str(pointed_at(Path(path)) or path)


RunPath = Annotated[str, Field(min_length=1), AfterValidator(pinned)]
"""A run directory, or `runs/<recipe>/latest`, which stands for what it points to at reading."""


KEY = re.compile(r"(\w+(?:\.\w+)*): ")
"""How the message of an error about a key of a recipe begins: `model.patch_size: `."""


@contextmanager
def about_key(key: str, settings: ComponentConfig) -> Iterator[None]:
    """Say of a RecipeError which component of the recipe it is about.

    The message then begins with the key, so that its place in the file is found wherever the error
    was raised, in another process too.

    Args:
        key: of the component, such as `strategies.0`.
        settings: of the component; a message may begin with one of its keys.
    """
    try:
        yield
    except RecipeError as error:
        found = KEY.match(str(error))
        own = found and found[1].partition(".")[0] in type(settings).model_fields
        joint = "." if own else ": "
        raise RecipeError(f"{key}{joint}{error}") from error
