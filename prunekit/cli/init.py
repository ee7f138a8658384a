"""`prunekit init`: copy a recipe to edit, or begin a plugin."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from prunekit.cli.common import ExampleCommand, say
from prunekit.cli.scaffold import kinds_with_templates, plugin_named, write_plugin
from prunekit.errors import UsageError
from prunekit.foundation.files import replacing
from prunekit.foundation.suggestions import did_you_mean
from prunekit.recipe.find import headline, named_recipes, recipe_named, shipped_sweeps
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError

EXAMPLES = """
prunekit init                               list the recipes that have a name
prunekit init quickstart                    copy one to quickstart.yaml
prunekit init vit_cifar_tome -o mine.yaml   under another name
prunekit init compression_cpu               a sweep, for `prunekit sweep`
prunekit init --plugin prunekit-rowwise     a strategy of your own
prunekit init --plugin prunekit-peaks --kind model
"""


def complete_name(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes and sweeps."""
    names = [*named_recipes(), *shipped_sweeps()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(
    "init",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("word", required=False, metavar="[NAME|DIR]", shell_complete=complete_name)
@click.option("--list", "only_list", is_flag=True, help="List the recipes, as without NAME.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: NAME.yaml]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--plugin", metavar="PLUGIN", help="Write a plugin package of this name to DIR.")
@click.option(
    "--kind",
    type=click.Choice(kinds_with_templates()),
    metavar="KIND",
    help=f"What the plugin adds: {', '.join(kinds_with_templates())}.  [default: strategy]",
)
@click.pass_context
def command(
    ctx: click.Context,
    word: str | None,
    only_list: bool,
    output: Path | None,
    force: bool,
    plugin: str | None,
    kind: str | None,
) -> None:
    """Copy the recipe or sweep NAME, comments and all; without NAME, list what there is.

    Recipes come with prunekit and with the plugins that are installed, sweeps with prunekit.

    With --plugin, write a package with a strategy, model, data set or other component of your own
    (--kind), its test and its recipe into the new folder DIR, by default one of the plugin's name.
    For one file of your own no package is needed: see --code of `prunekit run`.
    """
    if plugin is not None:
        if output or force or only_list:
            raise click.UsageError("--plugin takes --kind and DIR, no other option", ctx)
        begin_plugin(plugin, kind or "strategy", Path(word or plugin))
        return
    if kind:
        raise click.UsageError("--kind belongs to --plugin", ctx)
    if word is None or only_list:
        list_recipes()
        return
    stem = word.removesuffix(".yaml")
    sweeps = {} if stem in named_recipes() else shipped_sweeps()
    source = sweeps.get(stem) or known_recipe(word)
    target = output or Path(source.name)
    write_recipe(target, source.read_text("utf-8"), force=force)
    then = f"sweep {target} --dry-run" if stem in sweeps else f"run {target}"
    say(f"Wrote {target}. Next: prunekit {then}")


def begin_plugin(name: str, kind: str, target: Path) -> None:
    """Write a plugin package and say what to do next."""
    plugin = plugin_named(name, kind)
    files = write_plugin(plugin, target)
    folder = str(target) if target.is_absolute() else f"./{target}"
    say(f"Wrote {target}: {len(files)} files. Next:")
    say(f"  pip install -e {shlex.quote(f'{folder}[test]')}")
    say(f"  pytest {shlex.quote(folder)}")
    say(f"  prunekit run {plugin.recipe}")


def list_recipes() -> None:
    """Each recipe and sweep, where it comes from unless from prunekit, and what it shows."""
    formatter = click.HelpFormatter(width=80)
    rows = []
    for name, recipe in named_recipes().items():
        origin = "" if recipe.builtin else f"[{recipe.distribution} {recipe.version}] "
        rows.append((name, origin + headline(Path(recipe.value))))
    formatter.write_dl(rows)
    formatter.write_paragraph()
    with formatter.section("Sweeps"):
        sweeps = shipped_sweeps().items()
        formatter.write_dl([(name, headline(path)) for name, path in sweeps])
    say(formatter.getvalue(), nl=False)


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
        names = [*named_recipes(), *shipped_sweeps()]
        near = did_you_mean(stem, names) or f" There are: {', '.join(names)}"
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
