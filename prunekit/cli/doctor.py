"""`prunekit doctor`: what this machine has, and whether pruning works on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from prunekit.cli.common import ExampleCommand, device_option, json_option, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

FAILED = 1
"""Exit code where the self-test fails."""
EXAMPLES = """
prunekit doctor                    on the device that a run would take
prunekit doctor --device cuda:1    on another
prunekit doctor --json             for a bug report or a program
prunekit doctor --no-compile       without the trial of torch.compile
"""


@click.command(
    "doctor",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@device_option("auto")
@click.option(
    "--compile/--no-compile",
    "compiling",
    default=True,
    help="Try torch.compile, which takes longest.  [default: compile]",
)
@json_option
@click.pass_context
def command(ctx: click.Context, device: str | None, compiling: bool, as_json: bool) -> None:
    """Tell versions, devices, memory, compilers and extras, and try the device.

    Number types and attention kernels are tried, and a few steps of a ViT with merged tokens and
    pruned weights are taken on the device and on the CPU: the largest weights must be kept, pruned
    ones stay 0, and losses agree. The exit code is 1 where that fails.

    Shown are versions, names and sizes of hardware, and first lines of errors; no paths, no names
    of users or hosts, no environment variables. It can be pasted into a bug report.
    """
    from dataclasses import asdict

    from prunekit.foundation.devices import AUTO, choose_device
    from prunekit.train.machine import describe
    from prunekit.train.self_test import self_test

    place = choose_device(device or AUTO)
    found = describe(place, compiling=compiling)
    test = self_test(place)
    document = {**found, "self_test": {**asdict(test), "passed": test.passed}}
    if as_json:
        print_json(document)
    else:
        from prunekit.foundation.console import console

        screen = console()
        for part in doctor_view(document):
            screen.print(part)
    if not test.passed:
        ctx.exit(FAILED)


def doctor_view(found: Mapping[str, Any]) -> list[RenderableType]:
    """The document as tables, the verdict last."""
    test = found["self_test"]
    checks = [(one["what"], _verdict(one["holds"], one["found"])) for one in test["checks"]]
    place = found["device"]
    parts = [
        ("Versions", [*found["versions"].items(), ("os", found["os"])]),
        ("Plugins", list(found["plugins"].items())),
        ("Extras", [(name, _extra(name, one)) for name, one in found["extras"].items()]),
        ("CPU", _processor(found["cpu"])),
        ("Accelerators", [_accelerator(one) for one in found["accelerators"]]),
        (f"Number types on {place}", list(found["dtypes"].items())),
        (f"Attention kernels on {place}", list(found["attention"].items())),
        ("Compilers", list(found["compilers"].items())),
        (f"Self-test on {place}, {test['seconds']:.1f} s", checks),
    ]
    passed = "Pruning works here." if test["passed"] else "The self-test FAILED: see above."
    return [*(_section(*part) for part in parts), passed]


def _verdict(holds: bool, found: str) -> str:
    return f"{'ok' if holds else 'FAILED'}: {found}"


def _extra(name: str, packages: Mapping[str, str | None]) -> str:
    from prunekit.train.machine import missing

    if gone := missing(packages):
        return f"not installed ({', '.join(gone)}): pip install 'prunekit[{name}]'"
    return ", ".join(f"{package} {number}" for package, number in packages.items())


def _processor(cpu: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("name", f"{cpu['name']} ({cpu['capability']})"),
        ("cores", f"{cpu['cores']}, of which a command without a recipe uses {cpu['threads']}"),
        ("memory", f"{_gigabytes(cpu['free'])} free of {_gigabytes(cpu['memory'])}"),
        ("shared memory", _gigabytes(cpu["shared"])),
    ]


def _accelerator(one: Mapping[str, Any]) -> tuple[str, str]:
    if "name" not in one:
        return one["device"], f"does not work: {one['works']}"
    memory = f"{_gigabytes(one['free'])} free of {_gigabytes(one['memory'])}"
    lacks = [what for what in ("float64", "timer") if not one[what]]
    without = f"; has no {' and no '.join(lacks)}" if lacks else ""
    return one["device"], f"{one['name']}, {memory}{without}"


def _gigabytes(size: int | None) -> str:
    return "not told" if size is None else f"{size / 1e9:.1f} GB"


def _section(title: str, rows: Sequence[tuple[str, str | None]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows or [("none", "")]:
        shown = "not found" if value is None else value
        table.add_row(*(Text(one) for one in (name, shown)))
    return Group(Text(title, style="bold"), table)
