"""`prunekit predict`: the classes of image files."""

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
    from prunekit.export import Prediction

EXAMPLES = """
prunekit predict runs/mine/latest photo.png
prunekit predict runs/mine/latest photos/*.jpg --top 3
prunekit predict model.onnx photo.png --json
prunekit predict runs/vit_cifar_tome/latest photo.png --tokens merged
"""


@click.command(
    "predict",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("source", metavar="RUN_DIR|FILE", type=click.Path(path_type=Path))
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path)
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="K",
    help="Classes an image.",
)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also a picture of each image: which of its patches were merged.",
)
@device_option("that of the run, where it is here")
@code_option(again=True)
@json_option
def command(
    source: Path,
    images: tuple[Path, ...],
    top: int,
    tokens: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Give the likeliest classes of each IMAGE with their probabilities.

    A file is decoded, cut and normalised as those of the test split were. FILE is an .onnx file of
    `prunekit export`, or a .safetensors file.
    """
    from prunekit.export import predict

    found = predict(source, images, top=top, merged=tokens is not None, device=device)
    pictures = _pictures(found, tokens) if tokens is not None else [None] * len(found)
    if as_json:
        rows = [_plain(one, picture) for one, picture in zip(found, pictures, strict=True)]
        print_json({"images": rows})
        return
    for one, picture in zip(found, pictures, strict=True):
        _show(one, picture)


def _pictures(found: list[Prediction], folder: Path) -> list[Path | None]:
    from prunekit.report.evaluation import write_merged

    shown = [(one.image, one.merged.pixels, one.merged.groups) for one in found if one.merged]
    return [*write_merged(shown, folder)]


def _plain(one: Prediction, picture: Path | None) -> dict[str, object]:
    return {
        "image": one.image,
        "classes": [{"name": name, "probability": share} for name, share in one.classes],
        "tokens": None if one.merged is None else one.merged.tokens,
        "picture": None if picture is None else str(picture),
    }


def _show(one: Prediction, picture: Path | None) -> None:
    from prunekit.foundation.number_text import percent

    say(one.image)
    for name, share in one.classes:
        say(f"  {percent(share):>7}  {name}")
    if one.merged is not None:
        patches = one.merged.groups.size
        say(f"  {patches} patches, {one.merged.tokens} tokens: {picture!s}")
