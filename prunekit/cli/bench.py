"""`prunekit bench`: what pruning and probes cost here, and what a pruned model buys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import click

from prunekit.cli.bench_view import head_view, ratio_text, section_view
from prunekit.cli.common import ExampleCommand, device_option, json_option, print_json, say
from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.system import load_of_machine
from prunekit.registry.installed import import_object

if TYPE_CHECKING:
    import torch

    from prunekit.bench.measure import Section

    class Measurement(Protocol):
        """Yields a section after the other."""

        def __call__(self, only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
            """Arguments as of the command."""


EXAMPLES = """
prunekit bench masks                           all of it: several minutes
prunekit bench masks --only threshold,update   two parts
prunekit bench masks --quick                   does it run? no goal is judged
prunekit bench masks --json                    for a program
prunekit bench tokens                          what merging costs and saves
prunekit bench masks --device cuda             on a GPU
prunekit bench all --check                     all; exits with 10 on a miss
"""

PARTS = {
    "masks": ("threshold", "update", "logged", "overhead", "step", "memory", "eval"),
    "tokens": ("merge", "rounds", "block", "step"),
    "data": ("memory", "streamed", "whole"),
    "train": ("step",),
    "startup": ("commands", "validate"),
    "probes": ("mlp", "vit"),
    "deploy": (
        *("exporting", "zeros", "heads", "channels"),
        *("tokens", "quantised", "sizes", "runtimes"),
    ),
}
ON_DEVICES = {
    "masks": ("threshold", "update", "logged", "overhead", "step", "eval"),
    "tokens": PARTS["tokens"],
    "train": PARTS["train"],
    "probes": PARTS["probes"],
}
"""What can be measured on another device than the CPU: subject -> its parts."""
ALL = "all"
MISSED = 10
"""The exit code of `--check` where a goal is not met."""


@click.command("bench", cls=ExampleCommand, examples=EXAMPLES)
@click.argument("subject", type=click.Choice([*PARTS, ALL]))
@click.option(
    "--only",
    metavar="PART,...",
    help="Some parts. "
    + "; ".join(f"{subject}: {', '.join(parts)}" for subject, parts in PARTS.items())
    + ".",
)
@click.option("--quick", is_flag=True, help="Sizes that take seconds and judge no goal.")
@click.option("--check", is_flag=True, help=f"Say which goals are not met, and exit with {MISSED}.")
@device_option("cpu")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    subject: str,
    only: str | None,
    quick: bool,
    check: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure what prunekit costs here, beside what others take for the same.

    `masks`: search, update, step and what masks add to it, memory, evaluation. `tokens`: merging,
    and the step that it shortens. `data`: batches. `train`: the step of the trainer. `startup`:
    commands. `probes`: the burden. `deploy`: dense, zeroed, smaller and quantised models in torch
    and onnxruntime (extra `onnx`). `all`: these.

    Everything runs on one thread of the CPU and counts process time, so that other work on the
    machine matters little. On another device the time between two events there counts; what can be
    measured on the CPU alone (data, startup, deploy, memory) stays there. What is compared takes
    turns within one run; the ratio of a thing to itself is printed beside, and no goal is judged
    that is finer than that.
    """
    from prunekit.foundation.console import console

    if subject == ALL and only:
        raise click.UsageError("--only takes parts of one subject", ctx)
    parts = {name: PARTS[name] for name in PARTS} if subject == ALL else {}
    parts = parts or {subject: chosen(subject, only)}
    from prunekit.foundation.devices import HOST, choose_device

    place = HOST if device is None else choose_device(device)
    if place != HOST and subject != ALL:
        _check_parts(subject, parts[subject], only)
    machine, screen = about(place), console()
    if not as_json:
        screen.print(head_view(machine, quick=quick))
    found: list[tuple[str, Section]] = []
    for name, section in measured(parts, place, quick=quick, skip=subject == ALL):
        found.append((name, section))
        if not as_json:
            screen.print(section_view(section))
    if as_json:
        sections = [{"subject": name, **section.plain()} for name, section in found]
        print_json({"subject": subject, "quick": quick, **machine, "sections": sections})
    if check and not goals_met(found):
        ctx.exit(MISSED)


def _check_parts(subject: str, parts: Sequence[str], only: str | None) -> None:
    """Refuse what is measured on the CPU alone.

    Raises:
        UsageError: names it.
    """
    known = ON_DEVICES.get(subject, ())
    for part in parts if only else parts[:1]:
        if part not in known:
            what = f"bench {subject} --only {part}" if known else f"bench {subject}"
            raise UsageError(f"--device: {what} is measured on the CPU alone: leave --device out")


def measured(
    parts: Mapping[str, Sequence[str]], device: torch.device, *, quick: bool, skip: bool
) -> Iterator[tuple[str, Section]]:
    """Each section with its subject, one after the other.

    Args:
        parts: of each subject.
        device: where what is in `ON_DEVICES` is measured.
        quick: judge nothing.
        skip: pass over a subject whose packages are not installed, and say so.
    """
    from prunekit.bench.measure import measured_on
    from prunekit.foundation.devices import HOST

    for subject, some in parts.items():
        try:
            measure = measurement(subject)
        except UsageError as error:
            if not skip:
                raise
            say(f"skipped: {error}", err=True)
            continue
        if device == HOST or subject not in ON_DEVICES:
            where, here = HOST, some
        else:
            where, here = device, [part for part in some if part in ON_DEVICES[subject]]
        with measured_on(where):
            for section in measure(here, quick=quick):
                yield subject, section


def goals_met(found: Sequence[tuple[str, Section]]) -> bool:
    """Say on stderr which goals are not met or could not be decided; whether none is missed."""
    rows = [(f"{name}, {s.name}, {row.what}", row) for name, s in found for row in s.rows]
    missed = [(what, row) for what, row in rows if row.verdict == "not met"]
    unclear = [(what, row) for what, row in rows if row.verdict in ("undecided", "below the null")]
    for what, row in [*missed, *unclear]:
        say(f"{row.verdict}: {what}: {ratio_text(row)}, goal {row.goal}", err=True)
    met = sum(row.verdict == "met" for _, row in rows)
    say(f"goals: {met} met, {len(missed)} not met, {len(unclear)} undecided", err=True)
    return not missed


MEASURES = {
    "masks": "prunekit.bench.masks:bench_masks",
    "tokens": "prunekit.bench.tokens:bench_tokens",
    "data": "prunekit.bench.data:bench_data",
    "train": "prunekit.bench.train_step:bench_train",
    "startup": "prunekit.bench.startup:bench_startup",
    "probes": "prunekit.bench.probes:bench_probes",
    "deploy": "prunekit.bench.deploy:bench_deploy",
}
"""Subject -> `module:function` of what measures it."""


def measurement(subject: str) -> Measurement:
    """What measures a subject.

    Raises:
        UsageError: it needs packages that are not installed.
    """
    if subject == "deploy":
        from prunekit.export.programs import require_onnx

        require_onnx("bench deploy")
    measure: Measurement = import_object(MEASURES[subject])
    return measure


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


def about(device: torch.device) -> dict[str, object]:
    """What the numbers depend on besides the code."""
    from importlib.metadata import PackageNotFoundError, version

    from prunekit.train.environment import environment

    found = environment(device)
    found["threads"] = 1
    versions = dict(found["versions"])
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "environment": found,
        "versions": versions,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpus": os.cpu_count(),
        "load": load_of_machine(),
    }
