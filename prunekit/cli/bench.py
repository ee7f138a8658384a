"""`prunekit bench`: what pruning costs here, beside what others take for the same."""

from __future__ import annotations

import os

import click

from prunekit.cli.command import ExampleCommand, json_option
from prunekit.cli.output import print_json
from prunekit.errors import UsageError
from prunekit.suggestions import did_you_mean

EXAMPLES = """
prunekit bench masks                           all of it: ten minutes
prunekit bench masks --only threshold,update   two parts
prunekit bench masks --quick                   does it run? no goal is judged
prunekit bench masks --json                    for a program
"""

PARTS = ("threshold", "update", "step", "memory", "eval")


@click.command(
    "bench",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Measure what masks cost here, beside PyTorch's own pruning.",
)
@click.argument("subject", type=click.Choice(["masks"]))
@click.option("--only", metavar="PART,...", help=f"Some parts: {', '.join(PARTS)}.")
@click.option("--quick", is_flag=True, help="Sizes that take seconds and judge no goal.")
@json_option
def command(subject: str, only: str | None, quick: bool, as_json: bool) -> None:
    """Measure the masks: search, update, training step, memory, evaluation.

    Everything runs on one thread of the CPU and counts process time, so that other work on the
    machine matters little. What is compared takes turns within one run; the ratio of a thing to
    itself is printed beside, and no goal is judged that is finer than that.
    """
    parts = chosen(only)

    from prunekit.bench.masks import bench_masks
    from prunekit.cli.bench_view import head_view, section_view
    from prunekit.console import console

    machine = about()
    if as_json:
        sections = [section.plain() for section in bench_masks(parts, quick=quick)]
        print_json({"subject": subject, "quick": quick, **machine, "sections": sections})
        return
    screen = console()
    screen.print(head_view(machine, quick=quick))
    for section in bench_masks(parts, quick=quick):
        screen.print(section_view(section))


def chosen(only: str | None) -> tuple[str, ...]:
    """The parts that are asked for.

    Raises:
        UsageError: no such part.
    """
    parts = tuple(part.strip() for part in only.split(",")) if only else PARTS
    for part in parts:
        if part not in PARTS:
            near = did_you_mean(part, PARTS)
            raise UsageError(f"--only: no part {part!r}.{near} Parts are: {', '.join(PARTS)}")
    return parts


def about() -> dict[str, object]:
    """What the numbers depend on besides the code."""
    import torch

    from prunekit.train.environment import environment

    found = environment(torch.device("cpu"))
    found["threads"] = 1
    return {"environment": found, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
