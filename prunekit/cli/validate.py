"""`prunekit validate`: find every mistake in a recipe or sweep itself, without data or model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from prunekit.cli.common import (
    ExampleCommand,
    code_option,
    json_option,
    print_json,
    say,
    split_overrides,
    starting,
)
from prunekit.cli.completion import complete_sweep
from prunekit.errors import PrunekitError
from prunekit.foundation.number_text import counted
from prunekit.recipe.find import find_recipe

EXAMPLES = """
prunekit validate my.yaml
prunekit validate recipes/*.yaml
prunekit validate my.yaml strategies.0.sparsity=0.8    with an override
prunekit validate my_sweep.yaml                        the recipe of each run
prunekit validate --json my.yaml                       for a program
"""


@click.command(
    "validate",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="RECIPE|SWEEP... [KEY=VALUE]...",
    shell_complete=complete_sweep,
)
@code_option()
@json_option
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...], as_json: bool) -> None:
    """Check recipes and sweeps: all mistakes together, each with file, line and column.

    Of a sweep the recipes of all its runs are checked. Overrides apply to every recipe, and to a
    sweep as `prunekit sweep` takes them. The exit code is 0 when all are valid, 3 when a recipe is
    not.
    """
    recipes, overrides = split_overrides(arguments)
    if not recipes:
        raise click.UsageError("no recipe given, only overrides", ctx)
    with starting():
        verdicts = [judge(text, overrides) for text in recipes]
    for verdict in verdicts:
        tell(verdict, to_stderr=as_json)
    if as_json:
        print_json({"recipes": verdicts})
    ctx.exit(next((v["exit_code"] for v in verdicts if not v["valid"]), 0))


def judge(text: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Load one recipe or sweep and say what came of it."""
    from prunekit.recipe.identity import recipe_hash
    from prunekit.recipe.load import load_recipe
    from prunekit.recipe.notes import notes
    from prunekit.sweep.command_line import find_file, is_sweep_file

    try:
        if is_sweep_file(find_file(text)):
            return judge_sweep(text, overrides)
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


def judge_sweep(text: str, words: Sequence[str]) -> dict[str, Any]:
    """Multiply a sweep out: each of its runs has a recipe that is valid.

    Raises:
        PrunekitError: the file, or the recipe of a run, is wrong.
    """
    from prunekit.sweep.command_line import read_command_line
    from prunekit.sweep.plan import make_plan

    plan = make_plan(read_command_line(text, words).design)
    runs = len({cell.key for cell in plan.cells})
    return {"recipe": text, "valid": True, "name": plan.name, "runs": runs, "arms": list(plan.arms)}


def tell(verdict: dict[str, Any], *, to_stderr: bool) -> None:
    """One line for a valid recipe, the errors of another."""
    if verdict["valid"]:
        runs = f", {counted(verdict['runs'], 'run')}" if "runs" in verdict else ""
        say(f"{verdict['recipe']}: valid{runs}", err=to_stderr)
    for line in verdict.get("notes", ()):
        say(f"{verdict['recipe']}: {line}", err=to_stderr)
    for line in verdict.get("errors", ()):
        say(line, err=True)
