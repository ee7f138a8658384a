"""`prunekit bench`: what pruning and probes cost here, and what a pruned model buys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import click

from prunekit.cli.common import ExampleCommand, json_option, print_json
from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from prunekit.bench.measure import Row, Section

    class Measurement(Protocol):
        """Yields a section after the other."""

        def __call__(self, only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
            """Arguments as of the command."""


EXAMPLES = """
prunekit bench masks                           all of it: several minutes
prunekit bench masks --only threshold,update   two parts
prunekit bench masks --quick                   does it run? no goal is judged
prunekit bench masks --json                    for a program
prunekit bench probes                          what the probe burden costs
prunekit bench deploy                          what serving gains: minutes
"""

PARTS = {
    "masks": ("threshold", "update", "step", "memory", "eval"),
    "probes": ("mlp", "vit"),
    "deploy": (
        *("exporting", "zeros", "heads", "channels"),
        *("tokens", "quantised", "sizes", "runtimes"),
    ),
}


@click.command(
    "bench",
    cls=ExampleCommand,
    examples=EXAMPLES,
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
    """Measure masks (search, update, step, memory, evaluation), the probe burden, or deployment.

    `deploy` serves dense, zeroed, smaller and quantised models in torch and onnxruntime (extra
    `onnx`).

    Everything runs on one thread of the CPU and counts process time, so that other work on the
    machine matters little. What is compared takes turns within one run; the ratio of a thing to
    itself is printed beside, and no goal is judged that is finer than that.
    """
    parts = chosen(subject, only)

    from prunekit.foundation.console import console

    measure = measurement(subject)
    machine = about()
    if as_json:
        sections = [section.plain() for section in measure(parts, quick=quick)]
        print_json({"subject": subject, "quick": quick, **machine, "sections": sections})
        return
    screen = console()
    screen.print(head_view(machine, quick=quick))
    for section in measure(parts, quick=quick):
        screen.print(section_view(section))


def measurement(subject: str) -> Measurement:
    """What measures a subject.

    Raises:
        UsageError: it needs packages that are not installed.
    """
    if subject == "masks":
        from prunekit.bench.masks import bench_masks

        return bench_masks
    if subject == "probes":
        from prunekit.bench.probes import bench_probes

        return bench_probes
    from prunekit.export.programs import require_onnx

    require_onnx("bench deploy")
    from prunekit.bench.deploy import bench_deploy

    return bench_deploy


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
    versions = dict(found["versions"])
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "environment": found,
        "versions": versions,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


STYLES = {"met": "green", "not met": "red"}


def head_view(about: Mapping[str, Any], *, quick: bool) -> RenderableType:
    """The machine, and what is counted."""
    from rich.text import Text

    found = about["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"{found['device_name']}, {about['cpus']} CPUs, load {about['load']:.1f}; {found['os']}",
        f"Python {found['python']}, {versions}",
        "process time on one thread; medians, and the 95 % interval of each ratio",
    ]
    if quick:
        lines.append("quick: too small to judge any goal")
    return Text("\n".join(lines))


def section_view(section: Section) -> RenderableType:
    """A title, the rows, and what to know about them."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [
        "",
        Text(f"{section.name}: {section.title}", style="bold"),
        Text(f"baseline: {section.baseline}"),
        rows_view(section.rows),
    ]
    lines += [Text(f"- {note}", style="dim") for note in [*null_notes(section), *section.notes]]
    return Group(*lines)


def null_notes(section: Section) -> list[str]:
    """How restless the machine was."""
    if section.null is None:
        return []
    near = "within" if section.null <= 0.01 else "NOT within"
    text = f"{section.rounds} rounds; the baseline is {near} 1 % of itself (+-{section.null:.1%})"
    return [text]


def rows_view(rows: list[Row]) -> Table:
    """One line a row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    units = ", ".join(dict.fromkeys(row.unit for row in rows))
    counted = any(row.macs is not None for row in rows)
    for name in (f"ours, {units}", "baseline", "ratio", *(["MACs"] if counted else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.what),
            number(row.ours),
            number(row.baseline),
            ratio_text(row),
            *(["-" if row.macs is None else f"{row.macs:.3f}"] if counted else ()),
            row.goal,
            Text(row.verdict, style=STYLES.get(row.verdict, "")),
        )
    return table


def number(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio_text(row: Row) -> str:
    """`0.041 +-0.002`, as far as the interval goes."""
    if row.ratio is None:
        return "-"
    if row.interval is None:
        return f"{row.ratio:.3f}"
    return f"{row.ratio:.3f} +-{max(abs(end - row.ratio) for end in row.interval):.3f}"
