"""`prunekit check-nm`: which tensors hold n of m."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import ExampleCommand, code_option, json_option, print_json, say

if TYPE_CHECKING:
    from rich.table import Table

    from prunekit.export import NMTensor

EXAMPLES = """
prunekit check-nm runs/sr_ste_digits/latest
prunekit check-nm model.safetensors --n 1 --m 4
"""


@click.command(
    "check-nm",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("source", metavar="RUN_DIR|FILE", type=click.Path(path_type=Path))
@click.option("--n", type=int, default=2, show_default=True, help="Entries that may be there.")
@click.option("--m", type=int, default=4, show_default=True, help="Neighbours that make a group.")
@code_option(again=True)
@json_option
def command(source: Path, n: int, m: int, as_json: bool) -> None:
    """Tell which weights of a run or a safetensors file have at most N of each M entries.

    Groups are consecutive inputs of one output; of a convolution, input channels at one place of
    the kernel. docs/deploy.md says which tools take such weights.
    """
    from prunekit.export import check_nm

    found = check_nm(source, n, m)
    holding = sum(one.holds for one in found)
    if as_json:
        tensors = [asdict(one) | {"holds": one.holds} for one in found]
        print_json({"n": n, "m": m, "holding": holding, "tensors": tensors})
        return
    from prunekit.foundation.console import console

    console().print(_table(found, m))
    say(f"{holding} of {len(found)} tensors hold {n}:{m}")


def _table(found: list[NMTensor], m: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    from prunekit.foundation.number_text import percent

    table = Table(box=None, pad_edge=False)
    for heading in ("tensor", "shape", "groups that hold", ""):
        table.add_column(heading, overflow="fold")
    for one in found:
        share = percent(one.holding / one.groups) if one.groups else "-"
        verdict = "yes" if one.holds else "no" if one.groups else f"{one.inputs} inputs: not by {m}"
        shape = "x".join(map(str, one.shape))
        table.add_row(Text(one.name), shape, share, verdict)
    return table
