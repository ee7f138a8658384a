"""`prunekit init`: copy a shipped recipe to edit."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from prunekit.cli.command import ExampleCommand
from prunekit.cli.shipped import headline, shipped_recipes
from prunekit.errors import UsageError
from prunekit.files import replacing
from prunekit.suggestions import did_you_mean

EXAMPLES = """
prunekit init                                list the shipped recipes
prunekit init quickstart                     copy one to quickstart.yaml
prunekit init vit_cifar_tome -o mine.yaml    under another name
"""


def complete_name(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Shipped recipes."""
    return [CompletionItem(name) for name in shipped_recipes() if name.startswith(incomplete)]


@click.command(
    "init",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Copy a shipped recipe to edit; without a name, list them.",
)
@click.argument("name", required=False, shell_complete=complete_name)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: NAME.yaml]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(name: str | None, output: Path | None, force: bool) -> None:
    """Copy the shipped recipe NAME, comments and all; without NAME, list what there is."""
    if name is None:
        list_recipes()
        return
    source = known_recipe(name)
    target = output or Path(source.name)
    write_recipe(target, source.read_text("utf-8"), force=force)
    click.echo(f"Wrote {target}. Next: prunekit run {target}")


def list_recipes() -> None:
    """Each shipped recipe and what it shows."""
    formatter = click.HelpFormatter(width=80)
    formatter.write_dl([(name, headline(path)) for name, path in shipped_recipes().items()])
    click.echo(formatter.getvalue(), nl=False)


def known_recipe(name: str) -> Path:
    """The shipped recipe of this name.

    Raises:
        UsageError: there is none.
    """
    recipes = shipped_recipes()
    stem = name.removesuffix(".yaml")
    if stem not in recipes:
        near = did_you_mean(stem, recipes) or f" There are: {', '.join(recipes)}"
        raise UsageError(f"no shipped recipe {name!r}.{near}")
    return recipes[stem]


def write_recipe(target: Path, text: str, *, force: bool) -> None:
    """Write the whole file or nothing.

    Raises:
        UsageError: it exists, and `force` is not given.
        ResourceError: it cannot be written.
    """
    if target.is_dir() or (target.exists() and not force):
        remedy = "name a file with -o" if target.is_dir() else "use --force or another -o FILE"
        raise UsageError(f"{target} exists: {remedy}")
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
