"""How one component looks."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from prunekit.cli.kinds import KINDS
from prunekit.cli.list_view import origin
from prunekit.recipe.document import flow


def show_view(document: dict[str, Any]) -> RenderableType:
    """Name, origin, summary and paper, then field by field."""
    lines: list[RenderableType] = [
        Text.assemble(
            (f"{KINDS[document['kind']]} {document['name']}", "bold"),
            f"  {origin(document)}",
        )
    ]
    lines += [Text(document[key]) for key in ("summary", "paper") if document[key]]
    for field in document["fields"]:
        lines += ["", field_head(field), *indented(type_and_bounds(field), field["description"])]
    return Group(*lines)


def field_head(field: dict[str, Any]) -> Text:
    """`sparsity: required`, `schedule: cubic`."""
    value = ("required", "bold") if field["required"] else (flow(field["default"]), "")
    return Text.assemble((field["name"], "cyan"), ": ", value)


def type_and_bounds(field: dict[str, Any]) -> Text:
    """`float, >= 0, < 1`."""
    return Text(", ".join(filter(None, (field["type"], field["bounds"]))), style="dim")


def indented(*lines: Text | str) -> list[RenderableType]:
    """What is not empty, four columns in."""
    texts = [Text(line) if isinstance(line, str) else line for line in lines]
    return [Padding(text, (0, 0, 0, 4), expand=False) for text in texts if text]
