"""How a list of components looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from prunekit.cli.kinds import KINDS


def list_view(kind: str, components: Sequence[dict[str, Any]]) -> RenderableType:
    """A heading, then name, origin and paper of each component with its summary below."""
    entries = [entry_view(component) for component in components] or [Text("  none")]
    return Group(Text(kind, style="bold"), *entries, "")


def entry_view(component: dict[str, Any]) -> RenderableType:
    """Name and origin on a line; summary and paper below."""
    head = Text.assemble("  ", (component["name"], "cyan"), "  ", (origin(component), "dim"))
    if not component.get("check", {"ok": True})["ok"]:
        head.append("  FAILED", style="bold red")
    below = [Text(component[key]) for key in ("summary", "paper") if component[key]]
    return Group(head, *(Padding(text, (0, 0, 0, 6), expand=False) for text in below))


def origin(component: dict[str, Any]) -> str:
    """Distribution and version."""
    return f"{component['distribution']} {component['version']}".rstrip()


def failures_view(components: Sequence[dict[str, Any]]) -> RenderableType:
    """What failed, of which distribution, and why; recipes of plugins besides components."""
    failed = [component for component in components if not component["check"]["ok"]]
    lines = [Text(f"{len(components)} checked, {len(failed)} failed", style="bold")]
    for component in failed:
        kind = KINDS.get(component["kind"], "recipe")
        who = f"{kind} {component['name']} ({origin(component)})"
        lines.append(Text(f"{who}: {component['check']['reason']}"))
    return Group(*lines)
