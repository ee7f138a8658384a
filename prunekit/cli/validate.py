"""`prunekit validate`: find every mistake in a recipe itself, without data or model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from prunekit.cli.common import (
    ExampleCommand,
    code_option,
    complete_recipe,
    json_option,
    print_json,
    split_overrides,
)
from prunekit.errors import PrunekitError
from prunekit.foundation.text import printable
from prunekit.recipe.find import find_recipe

EXAMPLES = """
prunekit validate my.yaml
prunekit validate recipes/*.yaml
prunekit validate my.yaml strategies.0.sparsity=0.8    with an override
prunekit validate --json my.yaml                       for a program
"""


@click.command(
    "validate",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Find every mistake in a recipe itself, without data or model.",
)
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="RECIPE... [KEY=VALUE]...",
    shell_complete=complete_recipe,
)
@code_option()
@json_option
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], as_json: bool) -> None:
    """Check recipes: all mistakes together, each with file, line and column.

    Overrides apply to every recipe. The exit code is 0 when all are valid, 3 when a recipe is
    not.
    """
    recipes, overrides = split_overrides(arguments)
    if not recipes:
        raise click.UsageError("no recipe given, only overrides", ctx)
    verdicts = [judge(text, overrides) for text in recipes]
    for verdict in verdicts:
        tell(verdict, to_stderr=as_json)
    if as_json:
        print_json({"recipes": verdicts})
    ctx.exit(next((v["exit_code"] for v in verdicts if not v["valid"]), 0))


def judge(text: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Load one recipe and say what came of it."""
    from prunekit.recipe.identity import recipe_hash
    from prunekit.recipe.load import load_recipe
    from prunekit.recipe.notes import notes

    try:
        recipe = load_recipe(find_recipe(text), overrides)
    except PrunekitError as error:
        lines = str(error).splitlines()
        return {"recipe": text, "valid": False, "exit_code": error.exit_code, "errors": lines}
    return {
        "recipe": text,
        "valid": True,
        "name": recipe.name,
        "hash": recipe_hash(recipe),
        "notes": list(notes(recipe)),
    }


def tell(verdict: dict[str, Any], *, to_stderr: bool) -> None:
    """One line for a valid recipe, the errors of another."""
    if verdict["valid"]:
        click.echo(f"{verdict['recipe']}: valid", err=to_stderr)
    for line in verdict.get("notes", ()):
        click.echo(f"{verdict['recipe']}: {printable(line)}", err=to_stderr)
    for line in verdict.get("errors", ()):
        click.echo(printable(line), err=True)
