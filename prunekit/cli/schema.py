"""`prunekit schema`: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import json

import click

from prunekit.cli.command import ExampleCommand

EXAMPLES = """
prunekit schema > prunekit.schema.json

then make this the first line of a recipe (yaml-language-server reads it):
# yaml-language-server: $schema=prunekit.schema.json
"""


@click.command(
    "schema",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Print the JSON Schema of recipes, for editors.",
)
def command() -> None:
    """Print the JSON Schema of recipes; an editor completes and checks with it."""
    from prunekit.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
