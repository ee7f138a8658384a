"""`prunekit list`: the components there are, without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunekit.cli.common import (
    KEYS,
    KINDS,
    ExampleCommand,
    code_option,
    json_option,
    kind_named,
    print_json,
    registry_of,
    say,
)
from prunekit.cli.completion import complete_kind
from prunekit.cli.values import VALUES, value_entries, value_kind
from prunekit.errors import PluginError
from prunekit.recipe.find import (
    headline,
    named_recipes,
    recipe_files,
    recipe_folders,
    shipped_sweeps,
)
from prunekit.registry.installed import Component, own_version

if TYPE_CHECKING:
    from rich.console import RenderableType

FILES = {"recipes": "recipes", "recipe": "recipes", "sweeps": "sweeps", "sweep": "sweeps"}
"""Words for what is no component but a file."""

EXAMPLES = """
prunekit list                       everything that a recipe can name
prunekit list strategies            one kind
prunekit list sweeps                sweeps, or recipes, by their names
prunekit list optimizers            values: also lr_schedules, augmentations
prunekit list --check               try each, show what fails; exit code 7
prunekit list strategies --json     for a program
"""


@click.command(
    "list",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument(
    "kind",
    required=False,
    metavar="[KIND]",
    shell_complete=complete_kind,
)
@click.option("--check", is_flag=True, help="Import each in processes apart; show what fails.")
@code_option()
@json_option
@click.pass_context
def command(ctx: click.Context, kind: str | None, check: bool, as_json: bool) -> None:
    """List what a recipe can name: where it comes from, what it does, which paper it follows.

    A KIND is one of strategies, compressors, models, data, probes, losses, loggers, structures,
    distributions and schedules; or recipes, sweeps, lr_schedules, optimizers, augmentations.

    Components of other installed packages are listed like the built-in ones. Nothing is imported
    unless --check is given.

    --check tries each component, and without a kind each recipe of a plugin. What cannot be
    imported, breaks its contract or shares its name with another fails, with its package and the
    reason; the exit code is then 7. The others work: a failure matters to a recipe that names it.
    """
    values = value_kind(kind or "")
    if check and (kind in FILES or values):
        raise click.UsageError("--check tries components: name one of their kinds", ctx)
    if kind in FILES:
        list_entries(FILES[kind], file_entries(FILES[kind]), as_json=as_json)
        return
    if values:
        list_entries(values, value_entries(values), as_json=as_json)
        if VALUES[values].more and not as_json:
            say(f"  {VALUES[values].more}")
        return
    kinds = [kind_named(kind)] if kind else list(KINDS)
    found = {"components": [entry for each in kinds for entry in component_entries(each)]}
    if check and not kind:
        found["recipes"] = recipe_entries()
    everything = [entry for part in found.values() for entry in part]
    if check:
        from prunekit.cli.import_check import check_entries

        say(f"Trying {len(everything)} components and recipes ...", err=True)
        check_entries(everything)
    if as_json:
        print_json(found)
    else:
        print_lists(kinds, found["components"])
    if check:
        tell_failures(ctx, everything, quiet=as_json)


def file_entries(kind: str) -> list[dict[str, Any]]:
    """Recipes or sweeps by name, with what each shows."""
    found = named_recipes()
    if kind == "sweeps":
        own = own_version()
        found = {
            name: Component("sweep", name, str(path), "prunekit", own, True)
            for name, path in shipped_sweeps().items()
        }
    return [
        {
            "name": name,
            "distribution": one.distribution,
            "version": one.version,
            "summary": headline(Path(one.value)),
            "paper": "",
            "file": one.value,
        }
        for name, one in found.items()
    ]


def list_entries(kind: str, entries: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """What a recipe names and that is no component, or a file."""
    if as_json:
        print_json({kind: entries})
        return
    from prunekit.foundation.console import console

    screen = console()
    screen.print(list_view(kind, entries, screen.width))


def print_lists(kinds: Sequence[str], components: Sequence[dict[str, Any]]) -> None:
    """Kind by kind, for a person."""
    from prunekit.foundation.console import console

    screen = console(prose=True)
    for kind in kinds:
        of_kind = [entry for entry in components if entry["kind"] == kind]
        screen.print(list_view(kind, of_kind, screen.width))


def tell_failures(ctx: click.Context, checked: Sequence[dict[str, Any]], *, quiet: bool) -> None:
    """Say what failed, and end with 7 where something did."""
    from prunekit.foundation.console import console

    if not quiet:
        console(prose=True).print(failures_view(checked))
    if not all(entry["check"]["ok"] for entry in checked):
        ctx.exit(PluginError.exit_code)


def component_entries(kind: str) -> list[dict[str, Any]]:
    """What is known of each component of a kind without importing it."""
    return [component_entry(kind, name) for name in registry_of(kind).names()]


def component_entry(kind: str, name: str) -> dict[str, Any]:
    """One component as plain values, under the name that a recipe uses."""
    registry = registry_of(kind)
    component, description = registry.component(name), registry.describe(name)
    return {
        "kind": kind,
        "name": name,
        "distribution": component.distribution,
        "version": component.version,
        "builtin": component.builtin,
        **({"own": True} if component.own else {}),
        **({"key": KEYS[kind]} if kind in KEYS else {}),
        "summary": description.summary,
        "paper": description.paper,
    }


def recipe_entries() -> list[dict[str, Any]]:
    """The recipes of plugins, and the folders of recipes that hold none."""
    found = {name: r for name, r in named_recipes().items() if not r.builtin}
    empty = {f.value: f for f in recipe_folders() if not recipe_files(f.value)}
    return [
        {"kind": "recipes", "name": name, "distribution": c.distribution, "version": c.version}
        for name, c in (found | empty).items()
    ]


def list_view(kind: str, components: Sequence[dict[str, Any]], width: int) -> RenderableType:
    """A heading, then name, origin and paper of each component with its summary below."""
    from rich.console import Group
    from rich.text import Text

    entries = [short_view(one, width) or entry_view(one) for one in components] or [Text("  none")]
    return Group(Text(kind, style="bold"), *entries, "")


def short_view(component: dict[str, Any], width: int) -> RenderableType | None:
    """As `entry_view`, in a fifth of the time, of plain words that need no measuring; else None."""
    from rich.segment import Segment, Segments
    from rich.style import Style

    name, origin = component["name"], origin_text(component)
    room, below = width - len(BELOW), [component[key] for key in ("summary", "paper")]
    texts = [name, origin, *below]
    plain = all(text.isascii() and text.isprintable() and "  " not in text for text in texts)
    words = (len(word) for text in below for word in text.split())
    fit = len(f"  {name}  {origin}") <= width and max(words, default=0) <= room
    if "check" in component or not plain or not fit:
        return None
    end = Segment("\n")
    head = [Segment("  "), Segment(name, Style(color="cyan")), Segment("  ")]
    found = [*head, Segment(origin, Style(dim=True)), end]
    for line in (line for text in below for line in broken(text, room)):
        found += [Segment(BELOW + line), end]
    return Segments(found)


def broken(text: str, room: int) -> list[str]:
    """Words in lines of `room` characters at most; none of them is longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


BELOW = " " * 6
"""Before what stands below a name."""


def entry_view(component: dict[str, Any]) -> RenderableType:
    """Name and origin on a line; summary and paper below."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    head = Text.assemble("  ", (component["name"], "cyan"), "  ", (origin_text(component), "dim"))
    if not component.get("check", {"ok": True})["ok"]:
        head.append("  FAILED", style="bold red")
    below = [Text(component[key]) for key in ("summary", "paper") if component[key]]
    return Group(head, *(Padding(text, (0, 0, 0, len(BELOW)), expand=False) for text in below))


def origin_text(component: dict[str, Any]) -> str:
    """Distribution and version."""
    return f"{component['distribution']} {component['version']}".rstrip()


def failures_view(components: Sequence[dict[str, Any]]) -> RenderableType:
    """What failed, of which distribution, and why; recipes of plugins besides components."""
    from rich.console import Group
    from rich.text import Text

    failed = [component for component in components if not component["check"]["ok"]]
    lines = [Text(f"{len(components)} checked, {len(failed)} failed", style="bold")]
    for component in failed:
        kind = KINDS.get(component["kind"], "recipe")
        who = f"{kind} {component['name']} ({origin_text(component)})"
        lines.append(Text(f"{who}: {component['check']['reason']}"))
    return Group(*lines)
