"""`prunekit init`: copy a recipe that has a name, to edit."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from prunekit.cli.command import ExampleCommand
from prunekit.cli.failures import printable
from prunekit.cli.shipped import headline, named_recipes, recipe_named
from prunekit.components.names import AmbiguousNameError, UnknownNameError
from prunekit.errors import UsageError
from prunekit.files import replacing
from prunekit.suggestions import did_you_mean

EXAMPLES = """
prunekit init                                list the recipes that have a name
prunekit init quickstart                     copy one to quickstart.yaml
prunekit init vit_cifar_tome -o mine.yaml    under another name
"""


def complete_name(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes."""
    return [CompletionItem(name) for name in named_recipes() if name.startswith(incomplete)]


@click.command(
    "init",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Copy a recipe to edit; without a name, list them.",
)
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--list", "only_list", is_flag=True, help="List the recipes, as without NAME.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: NAME.yaml]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(name: str | None, only_list: bool, output: Path | None, force: bool) -> None:
    """Copy the recipe NAME, comments and all; without NAME, list what there is.

    Recipes come with prunekit and with the plugins that are installed.
    """
    if name is None or only_list:
        list_recipes()
        return
    source = known_recipe(name)
    target = output or Path(source.name)
    write_recipe(target, source.read_text("utf-8"), force=force)
    click.echo(f"Wrote {target}. Next: prunekit run {target}")


def list_recipes() -> None:
    """Each recipe, where it comes from unless from prunekit, and what it shows."""
    formatter = click.HelpFormatter(width=80)
    rows = []
    for name, recipe in named_recipes().items():
        origin = "" if recipe.builtin else f"[{recipe.distribution} {recipe.version}] "
        rows.append((name, printable(origin + headline(Path(recipe.value)))))
    formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)


def known_recipe(name: str) -> Path:
    """The recipe of this name.

    Raises:
        UsageError: there is none, or there are two.
    """
    stem = name.removesuffix(".yaml")
    try:
        return recipe_named(stem)
    except AmbiguousNameError as error:
        raise UsageError(str(error)) from error
    except UnknownNameError:
        recipes = named_recipes()
        near = did_you_mean(stem, recipes) or f" There are: {', '.join(recipes)}"
        raise UsageError(f"no recipe {name!r}.{near}") from None


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
