"""`prunekit sensitivity`: what each layer of a finished run can lose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import (
    ExampleCommand,
    check_overrides,
    code_option,
    device_option,
    json_option,
    print_json,
    say,
)
from prunekit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from prunekit.export.sensitivity import Sensitivity

EXAMPLES = """
prunekit sensitivity runs/dense/latest
prunekit sensitivity runs/dense/latest --structure channel --tolerance 0.02
prunekit sensitivity runs/dense/latest --sparsities 0.5,0.9 --strategy lamp
"""


@click.command(
    "sensitivity",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("source", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option("--sparsities", metavar="S,S,...", help="Shares to prune; 0.3 to 0.95 by default.")
@click.option("--strategy", default="magnitude", show_default=True, help="What ranks the units.")
@click.option("--structure", default="unstructured", show_default=True, help="What the units are.")
@click.option(
    "--tolerance", default=0.01, show_default=True, help="Accuracy that a layer may cost, a share."
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Measured on; by default validation, else training samples.",
)
@click.option("--samples", default=2000, show_default=True, help="Images at most.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="RUN_DIR/sensitivity.")
@device_option("that of the run, where it is here")
@json_option
@code_option(again=True)
def command(
    source: Path,
    overrides: tuple[str, ...],
    sparsities: str | None,
    strategy: str,
    structure: str,
    tolerance: float,
    split: str | None,
    samples: int,
    out: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Prune one layer of a finished run at a time, without training, and measure the accuracy.

    Writes sensitivity.json, a picture (PNG and SVG) and per_pattern.yaml: for each layer the
    highest sparsity up to which it costs no more than the tolerance, as a recipe takes it.
    """
    check_overrides(overrides)
    from prunekit.export import sensitivity as module
    from prunekit.report.sensitivity import write_sensitivity
    from prunekit.runs.links import refuse_link

    found = module.sensitivity(
        source,
        overrides,
        sparsities=_numbers(sparsities) or module.SPARSITIES,
        strategy=strategy,
        structure=structure,
        tolerance=tolerance,
        split=split,  # type: ignore[arg-type]
        samples=samples,
        device=device,
    )
    document = found.document()
    if out is None:
        refuse_link(source / "sensitivity")
    files = write_sensitivity(document, found.per_pattern(), out or source / "sensitivity")
    if as_json:
        print_json({**document, "files": [str(file) for file in files]})
        return
    from prunekit.foundation.console import console

    console().print(_table(found))
    for note in found.notes:
        say(note)
    for name, why in found.left_out.items():
        say(f"Left out {name}: {why}")
    for file in files:
        say(f"Wrote {file}")


def _numbers(text: str | None) -> Sequence[float]:
    try:
        return [float(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UsageError(
            f"--sparsities {text}: write numbers between commas, such as 0.5,0.8"
        ) from None


def _table(found: Sensitivity) -> Table:
    from rich.table import Table
    from rich.text import Text

    from prunekit.foundation.number_text import count, percent

    title = (
        f"{found.source}: {percent(found.top1)} of {count(found.samples)} {found.split} samples; "
        f"points lost by pruning one layer"
    )
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("units", justify="right")
    for point in found.layers[0].points:
        table.add_column(f"{100 * point.sparsity:g} %", justify="right")
    table.add_column("chosen", justify="right")
    for layer in found.layers:
        lost = [f"{100 * (found.top1 - point.top1):.1f}" for point in layer.points]
        row = [layer.name, count(layer.units), *lost, f"{100 * layer.chosen:g} %"]
        table.add_row(*map(Text, row))
    return table
