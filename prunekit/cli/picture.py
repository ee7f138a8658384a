"""`prunekit picture`: one picture of a run."""

from __future__ import annotations

from pathlib import Path

import click

from prunekit.cli.common import (
    ExampleCommand,
    code_option,
    device_option,
    numbers_between_commas,
    say,
)

KINDS_DRAWN = ("tokens", "masks", "density", "sensitivity")

EXAMPLES = """
prunekit picture runs/quickstart/latest density
prunekit picture runs/quickstart/latest masks --layer 'blocks.0.*'
prunekit picture runs/vit_cifar_tome/latest tokens --ratios 0.3,0.6 --accuracy
prunekit picture runs/mine/latest tokens --images 4 --out merged.png
"""


@click.command(
    "picture",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.argument("kind", metavar="tokens|masks|density|sensitivity", type=click.Choice(KINDS_DRAWN))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The PNG file.  [default: <kind>.png in RUN_DIR]",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="Of masks: a tensor, or a pattern of names; may come again.  [default: the 6 largest]",
)
@click.option(
    "--ratios",
    metavar="R,R,...",
    help="Of tokens: ratios of the compressors, beside that of the run.  [default: 0.25,0.5,0.75]",
)
@click.option(
    "--images",
    type=click.IntRange(min=1, max=50),
    default=6,
    show_default=True,
    metavar="N",
    help="Of tokens: test images.",
)
@click.option(
    "--accuracy",
    is_flag=True,
    help="Of tokens: measure the accuracy at each ratio too, on the whole test split.",
)
@device_option("that of the run, where it is here")
@code_option(again=True)
def command(
    run_dir: Path,
    kind: str,
    out: Path | None,
    layers: tuple[str, ...],
    ratios: str | None,
    images: int,
    accuracy: bool,
    device: str | None,
) -> None:
    """Draw one picture of a run.

    tokens: test images with each token as one field of colour, at several ratios side by side.
    masks: masks as images, with the density of their rows and columns.
    density: density by layer and time, with sparsity and flips.
    sensitivity: accuracy against the sparsity of each layer alone.
    """
    from prunekit.report.pictures import RATIOS, draw_picture

    chosen = RATIOS if ratios is None else numbers_between_commas("--ratios", ratios)
    path = draw_picture(
        run_dir,
        kind,
        out=out,
        layers=layers,
        ratios=chosen,
        images=images,
        accuracy=accuracy,
        device=device,
    )
    say(f"Wrote {path}")
