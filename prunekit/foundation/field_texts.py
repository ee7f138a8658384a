"""What the keys of a value are for: the strings below its fields, read when somebody asks.

Pydantic would read them from the source of every class at its import, which took a quarter of the
time that a recipe takes to be validated. Imports no torch.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def field_text(config: type[BaseModel], name: str) -> str:
    """What a field is for: its description, else the string below it; empty where there is none.

    A subclass that gives the field another default need not repeat it.
    """
    for cls in config.__mro__:
        field = getattr(cls, "model_fields", {}).get(name)
        if field is None:
            continue
        text = strings_below(cls).get(name) or field.description
        if text:
            return text
    return ""


@cache
def strings_below(cls: type) -> Mapping[str, str]:
    """Field -> the string that stands below it in the source; empty where there is no source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # made while the program runs, or typed at a prompt
        return {}
    found: dict[str, str] = {}
    for field, below in pairwise(getattr(body, "body", ())):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = below.value.value
            found |= {field.target.id: inspect.cleandoc(text)} if isinstance(text, str) else {}
    return found
