"""The base of every value that a recipe can hold. Imports neither torch nor a plugin."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: immutable, strict, no unknown keys, no NaN or infinity.

    Sequences are tuples. Input that holds lists goes through `as_values` first, as strict tuples
    do not take lists.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class ComponentConfig(Frozen):
    """The settings of a registered component; a subclass narrows `name` to its own literal."""

    name: str
    """The registered name."""


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
