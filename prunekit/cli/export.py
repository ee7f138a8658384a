"""`prunekit export`: a finished run as files that others serve."""

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
    from prunekit.export import Export

EXAMPLES = """
prunekit export runs/quickstart/latest --onnx
prunekit export runs/quickstart/latest --onnx --normalize    pixels go in
prunekit export runs/quickstart/latest --pt2 --packed --out served
prunekit export runs/mine/latest --compact --onnx   empty heads removed
"""


@click.command(
    "export",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--onnx", is_flag=True, help="model.onnx; needs pip install 'prunekit[onnx]'.")
@click.option("--pt2", is_flag=True, help="model.pt2, for torch.export.load.")
@click.option("--packed", is_flag=True, help="Weights with their zeros left out, for load_model.")
@click.option(
    "--compact", is_flag=True, help="First take out the heads and channels that are empty."
)
@click.option("--normalize", is_flag=True, help="Put mean and standard deviation inside.")
@click.option(
    "--timing/--no-timing",
    default=True,
    help="Time model.onnx beside the dense model, which takes seconds.  [default: timing]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to; files of the same kind are replaced.  [default: RUN_DIR/export]",
)
@device_option("cpu, where programs are traced in any case")
@code_option(again=True)
@json_option
def command(
    run_dir: Path,
    onnx: bool,
    pt2: bool,
    packed: bool,
    compact: bool,
    normalize: bool,
    timing: bool,
    out: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Write the finished model in RUN_DIR for other runtimes, with a model card (README.md).

    ONNX and PT2 files take any batch; their input is `images`, their output `logits`. Each is run
    on up to 256 test images at batches 1, 2 and 7 and compared with the model before it is there:
    what differs is not written.
    """
    from prunekit.export import export_run

    found = export_run(
        run_dir,
        onnx=onnx,
        pt2=pt2,
        packed=packed,
        compact=compact,
        normalize=normalize,
        out=out,
        timing=timing,
        device=device or "cpu",
    )
    if as_json:
        print_json({"folder": str(found.folder), **found.plain()})
    else:
        _show(found)


def _show(found: Export) -> None:
    from prunekit.cli.run import short
    from prunekit.foundation.number_text import beside_dense, count, seconds_text

    folder = short(found.folder)
    for name, size in found.files.items():
        did = "Kept" if name in found.kept else "Wrote"
        say(f"{did} {folder / name}  {size / 1e6:.2f} MB")
        if name in found.checks:
            one = found.checks[name]
            say(
                f"  {one.images} test images at batches 1, 2 and 7: logits within "
                f"{one.difference:.1e} of the largest, "
                + ("one other class" if one.other else "the same classes")
            )
    say(f"Wrote {folder / 'README.md'}, the model card")
    say(f"{count(found.zeros)} zeros in the pruned tensors of each file")
    if found.checks.keys() - {*found.kept}:
        say(f"Traced and written in {seconds_text(found.seconds)}, checks not counted")
    if found.latency:
        for batch, one in found.latency.onnxruntime.items():
            say(f"onnxruntime, batch {batch}: {beside_dense(one)}")
        if found.latency.saving:
            say(found.latency.saving)
    for note in found.notes:
        say(note)
