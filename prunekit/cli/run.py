"""`prunekit run`: train, prune, compress and evaluate what a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import (
    ExampleCommand,
    check_overrides,
    code_option,
    count_option,
    device_option,
    out_option,
    starting,
)
from prunekit.cli.completion import complete_recipe
from prunekit.errors import PrunekitError, UsageError
from prunekit.recipe.find import find_recipe

if TYPE_CHECKING:
    from prunekit.train.dry_run import DryRun

EXAMPLES = """
prunekit run quickstart                        a recipe, by its name
prunekit run my.yaml                           a recipe of your own
prunekit run my.yaml seed=1 strategies.0.sparsity=0.95
prunekit run my.yaml 'data={name: image_folder, root: photos}'
prunekit run my.yaml --code my_net.py          with classes of your own
prunekit run my.yaml --dry-run                 what it would prune and cost
prunekit run my.yaml --nproc 2 --out results   two processes, another place
prunekit run my.yaml --device cuda:1           on the second GPU
prunekit run my.yaml --continue                go on with it, or begin it
torchrun --nproc-per-node 8 -m prunekit run my.yaml
"""


@click.command(
    "run",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("recipe", shell_complete=complete_recipe)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@out_option("runs", "run")
@count_option("--nproc", "Processes on this machine; the batch is shared out among them.")
@device_option("as the recipe says")
@click.option(
    "--continue",
    "go_on",
    is_flag=True,
    help="Go on with the newest run of this recipe in DIR, if there is one.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be pruned, and the cost; no run.")
@click.option("--all", "each", is_flag=True, help="With --dry-run: each tensor on its own row.")
@code_option()
def command(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path,
    nproc: int,
    device: str | None,
    go_on: bool,
    dry_run: bool,
    each: bool,
) -> None:
    """Train, prune, compress and evaluate what RECIPE says.

    RECIPE is a YAML file or the name of a recipe (`prunekit init` lists them). KEY=VALUE
    overrides one of its keys; the value is YAML and is checked like the recipe itself.

    The run lands in DIR/<recipe>/<time>-<hash>, and DIR/<recipe>/latest points to the newest.
    A run that stopped goes on with `prunekit resume`, or with the same command and --continue:
    that begins the recipe where it was never begun, and leaves a run that is done as it is.
    """
    check_overrides(overrides)
    if each and not dry_run:
        raise UsageError("--all goes with --dry-run: it shows each tensor on its own row")
    path = find_recipe(recipe)
    if device is not None:  # the last word on it
        overrides += (f"device={device}",)

    with starting():
        from prunekit.recipe.load import (
            document_from_text,
            read_text,
            recipe_from_document,
            with_source_position,
        )

        text = read_text(path)
        document = document_from_text(text, overrides, source=str(path))
        loaded = recipe_from_document(document)

        from prunekit.train import dry_run as planning, launch

    with with_source_position(document):
        if dry_run:
            _print_plan(planning.dry_run(loaded, nproc), each=each)
        else:
            print_summary(
                launch.run_recipe(loaded, source_text=text, out=out, nproc=nproc, go_on=go_on)
            )


def _print_plan(planned: DryRun, *, each: bool) -> None:
    from prunekit.cli.dry_run_view import dry_run_view
    from prunekit.foundation.console import console

    screen = console()
    screen.print(dry_run_view(planned, screen.width, each=each))


def print_summary(run_dir: Path) -> None:
    """Draw the picture of a finished run; print its table and its paths."""
    from prunekit.foundation.console import console, is_main_rank
    from prunekit.foundation.signals import StopSignals
    from prunekit.report import picture, summarise

    if not is_main_rank():
        return
    run_dir = short(run_dir)
    screen = console()
    with StopSignals():  # the run is done: what asks for a stop now is told that in a moment
        try:
            picture(run_dir)
        except (PrunekitError, OSError) as error:  # the run is done all the same
            screen.print(f"no picture: {error}")
        for part in summarise(run_dir):
            screen.print()
            screen.print(part)


def short(path: Path) -> Path:
    """As a person would write it: from the working directory, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
