"""`prunekit compact`: a finished run without what its masks emptied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import (
    ExampleCommand,
    code_option,
    device_option,
    json_option,
    print_json,
    say,
)

if TYPE_CHECKING:
    from prunekit.export.compacting import CompactRun

EXAMPLES = """
prunekit compact runs/vit_compact_digits/latest
prunekit compact runs/mine/latest --out smaller
prunekit evaluate runs/mine/latest/compact/model.safetensors
"""


@click.command(
    "compact",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to; what is there of an earlier call is replaced.  [default: RUN_DIR/compact]",
)
@device_option("cpu")
@json_option
@code_option(again=True)
def command(run_dir: Path, out: Path | None, device: str | None, as_json: bool) -> None:
    """Write the model in RUN_DIR without the heads, channels and hidden units that are all zeros.

    The smaller model gives the same logits: in float64, on test images, to 1e-9 of the largest, or
    nothing is written. What is empty and cannot leave is told, with the reason.
    """
    from prunekit.export import compact_run

    found = compact_run(run_dir, out=out, device=device or "cpu")
    if as_json:
        print_json(_plain(found))
    else:
        _show(found)


def _plain(found: CompactRun) -> dict[str, object]:
    return {
        **found.document,
        "folder": str(found.folder),
        "files": dict(found.files),
        "notes": list(found.notes),
    }


def _show(found: CompactRun) -> None:
    from rich.table import Table
    from rich.text import Text

    from prunekit.cli.run import short
    from prunekit.foundation.console import console
    from prunekit.foundation.number_text import count, percent, si
    from prunekit.pruning.compact import Stayed

    document, screen = found.document, console()
    if document["removed"]:
        table = Table("layer", "units", "before", "after", box=None, pad_edge=False)
        for one in document["removed"]:
            cells = (one["layer"], one["unit"], count(one["before"]), count(one["after"]))
            table.add_row(*(Text(cell) for cell in cells))
        screen.print(table)
    for one in document["stayed"]:
        say(Stayed(**one).sentence())
    for path, name in document["replaced"].items():
        say(f"{path}: is a {name} of prunekit now, with the same keys")
    for note in found.notes:
        say(note)
    for key, text in (("parameters", count), ("macs", si)):
        before, after = document[key]["before"], document[key]["after"]
        what = {"parameters": "parameters", "macs": "multiply-adds of one image"}[key]
        share = percent(after / before) if before else "all"
        say(f"{text(before)} {what}, now {text(after)} ({share})")
    if proof := document["proof"]:
        say(
            f"{proof['images']} test images in float64: logits within {proof['difference']:.1e} of "
            "the largest"
        )
    folder = short(found.folder)
    for name, size in found.files.items():
        say(f"Wrote {folder / name}  {size / 1e6:.2f} MB")
