"""`prunekit schema`: the JSON Schema of recipes and of sweep files, for editors."""

from __future__ import annotations

import json

import click

from prunekit.cli.common import ExampleCommand, code_option, say

EXAMPLES = """
prunekit schema > prunekit.schema.json
prunekit schema --sweep > sweep.schema.json

then make this the first line of a recipe (yaml-language-server reads it):
# yaml-language-server: $schema=prunekit.schema.json
"""


@click.command(
    "schema",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.option("--sweep", is_flag=True, help="Of sweep files instead.")
@code_option()
def command(sweep: bool) -> None:
    """Print the JSON Schema of recipes; an editor completes and checks with it."""
    if sweep:
        from prunekit.recipe.json_schema import schema_of_sweep
        from prunekit.sweep.file import SweepFile

        say(json.dumps(schema_of_sweep(SweepFile), indent=2))
        return
    from prunekit.recipe.json_schema import json_schema

    say(json.dumps(json_schema(), indent=2))
