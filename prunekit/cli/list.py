"""`prunekit list`: the components there are, without importing them."""

from __future__ import annotations

from typing import Any

import click

from prunekit.cli.command import ExampleCommand, json_option
from prunekit.cli.kinds import KINDS, complete_kind, kind_named, registry_of
from prunekit.cli.output import print_json

EXAMPLES = """
prunekit list                       everything that a recipe can name
prunekit list strategies            one kind
prunekit list --check               import each apart, show what fails
prunekit list strategies --json     for a program
"""


@click.command(
    "list",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="List strategies, compressors, models, data and probes.",
)
@click.argument(
    "kind",
    required=False,
    metavar="[strategies|compressors|models|data|probes]",
    shell_complete=complete_kind,
)
@click.option("--check", is_flag=True, help="Import each in a process apart; show what fails.")
@json_option
def command(kind: str | None, check: bool, as_json: bool) -> None:
    """List what a recipe can name: where it comes from, what it does, which paper it follows.

    Components of other installed packages are listed like the built-in ones. Nothing is imported
    unless --check is given.
    """
    kinds = [kind_named(kind)] if kind else list(KINDS)
    components = [entry for each in kinds for entry in entries(each)]
    if check:
        from prunekit.cli.import_check import check_imports

        check_imports(components)
    if as_json:
        print_json({"components": components})
        return
    from prunekit.cli.list_view import failures_view, list_view
    from prunekit.console import console

    screen = console()
    for each in kinds:
        screen.print(list_view(each, [e for e in components if e["kind"] == each]))
    if check:
        screen.print(failures_view(components))


def entries(kind: str) -> list[dict[str, Any]]:
    """What is known of each component of a kind without importing it."""
    return [describe(kind, name) for name in registry_of(kind).names()]


def describe(kind: str, name: str) -> dict[str, Any]:
    """One component as plain values, under the name that a recipe uses."""
    registry = registry_of(kind)
    component, description = registry.component(name), registry.describe(name)
    return {
        "kind": kind,
        "name": name,
        "distribution": component.distribution,
        "version": component.version,
        "builtin": component.builtin,
        "summary": description.summary,
        "paper": description.paper,
    }
