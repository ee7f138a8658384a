"""Patterns on parameter names, as recipes write them. Imports no torch."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator

EXPRESSION = "re:"


def matches(pattern: str, name: str) -> bool:
    """Whether a glob, or `re:` and a regular expression for all of it, matches a name."""
    if pattern.startswith(EXPRESSION):
        return re.fullmatch(pattern.removeprefix(EXPRESSION), name) is not None
    return fnmatchcase(name, pattern)


def _compiles(pattern: str) -> str:
    if pattern.startswith(EXPRESSION):
        try:
            re.compile(pattern.removeprefix(EXPRESSION))
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A glob (`blocks.*.mlp.*`; `*` also spans dots), or `re:` and a regular expression."""
