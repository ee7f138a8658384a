"""`prunekit resume`: go on with a run that stopped."""

from __future__ import annotations

from pathlib import Path

import click

from prunekit.cli.common import ExampleCommand, code_option, device_option
from prunekit.errors import UsageError

EXAMPLES = """
prunekit resume runs/quickstart/latest
prunekit resume runs/quickstart/20260101T120000-1a2b3c4d
prunekit resume runs/quickstart/latest --device cpu
prunekit resume runs/quickstart/latest --nproc 4
"""


def _no_overrides(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Settings are taken for what they are, and refused.

    Raises:
        UsageError: there are some.
    """
    if value:
        raise UsageError(
            f"{value[0]}: a run goes on with the recipe that it began with: for other settings run "
            "a recipe with model.init=RUN_DIR"
        )
    return value


@click.command(
    "resume",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="", callback=_no_overrides)
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes on this machine; else as many as the run had.",
)
@device_option("as its recipe says")
@code_option(again=True)
def command(
    run_dir: Path, overrides: tuple[str, ...], nproc: int | None, device: str | None
) -> None:
    """Go on with the run in RUN_DIR from its newest good checkpoint.

    On the CPU the result is the same, bit for bit, as if the run had never stopped; on another
    device or number of processes than before it differs by rounding, which is told. A run that is
    done stays as it is.
    """
    from prunekit.cli.run import print_summary
    from prunekit.train import launch

    print_summary(launch.resume_run(run_dir, device=device, nproc=nproc))
