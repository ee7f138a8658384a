"""The base of every value that a recipe can hold, and how an error names one. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prunekit.errors import RecipeError


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


def pinned(path: str) -> str:
    """`runs/<recipe>/latest` -> the run that it points to now; any other path as it is.

    A run that is read later, or resumed, must not follow a link that has moved on.
    """
    link = Path(path)
    return str(link.parent / os.readlink(link)) if link.is_symlink() else path


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
