"""`prunekit bench`: what pruning and probes cost here, beside what others take for the same."""

from __future__ import annotations

import os

import click

from prunekit.cli.command import ExampleCommand, json_option
from prunekit.cli.output import print_json
from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean

EXAMPLES = """
prunekit bench masks                           all of it: several minutes
prunekit bench masks --only threshold,update   two parts
prunekit bench masks --quick                   does it run? no goal is judged
prunekit bench masks --json                    for a program
prunekit bench probes                          what the probe burden costs
"""

PARTS = {
    "masks": ("threshold", "update", "step", "memory", "eval"),
    "probes": ("mlp", "vit"),
}


@click.command(
    "bench",
    cls=ExampleCommand,
    examples=EXAMPLES,
    short_help="Measure what masks cost here, beside PyTorch's own pruning, and what probes cost.",
)
@click.argument("subject", type=click.Choice(list(PARTS)))
@click.option(
    "--only",
    metavar="PART,...",
    help="Some parts. "
    + "; ".join(f"{subject}: {', '.join(parts)}" for subject, parts in PARTS.items())
    + ".",
)
@click.option("--quick", is_flag=True, help="Sizes that take seconds and judge no goal.")
@json_option
def command(subject: str, only: str | None, quick: bool, as_json: bool) -> None:
    """Measure masks (search, update, training step, memory, evaluation) or the probe burden.

    Everything runs on one thread of the CPU and counts process time, so that other work on the
    machine matters little. What is compared takes turns within one run; the ratio of a thing to
    itself is printed beside, and no goal is judged that is finer than that.
    """
    parts = chosen(subject, only)

    from prunekit.bench.masks import bench_masks
    from prunekit.bench.probes import bench_probes
    from prunekit.cli.bench_view import head_view, section_view
    from prunekit.foundation.console import console

    machine = about()
    measure = {"masks": bench_masks, "probes": bench_probes}[subject]
    if as_json:
        sections = [section.plain() for section in measure(parts, quick=quick)]
        print_json({"subject": subject, "quick": quick, **machine, "sections": sections})
        return
    screen = console()
    screen.print(head_view(machine, quick=quick))
    for section in measure(parts, quick=quick):
        screen.print(section_view(section))


def chosen(subject: str, only: str | None) -> tuple[str, ...]:
    """The parts of a subject that are asked for.

    Raises:
        UsageError: no such part.
    """
    known = PARTS[subject]
    parts = tuple(part.strip() for part in only.split(",")) if only else known
    for part in parts:
        if part not in known:
            near = did_you_mean(part, known)
            raise UsageError(f"--only: no part {part!r}.{near} Parts are: {', '.join(known)}")
    return parts


def about() -> dict[str, object]:
    """What the numbers depend on besides the code."""
    import torch

    from prunekit.train.environment import environment

    found = environment(torch.device("cpu"))
    found["threads"] = 1
    return {"environment": found, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
