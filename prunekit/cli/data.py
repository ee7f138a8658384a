"""`prunekit data`: folders of images packed for training, and whether all of them are whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunekit.cli.common import ExampleCommand, ExampleGroup, json_option, print_json, say
from prunekit.cli.data_view import (
    checked_text,
    estimate_plain,
    estimate_text,
    info_plain,
    info_text,
)
from prunekit.errors import DataError
from prunekit.foundation.number_text import count, counted, size_text

if TYPE_CHECKING:
    from prunekit.data.file_index import FileIndex
    from prunekit.data.pack_format import PackDocument
    from prunekit.data.packing import Indices
    from prunekit.registry.configs import Split

PACK_EXAMPLES = """
prunekit data pack imagenet --test-folder val --dry-run     what it would take
prunekit data pack imagenet --test-folder val --jobs 16
prunekit data pack imagenet --test-folder val --test-labels LOC_val_solution.csv
prunekit run resnet50_imagenet_rigl data.root=imagenet.pack
"""
CHECK_EXAMPLES = """
prunekit data check imagenet.pack                           checksums
prunekit data check imagenet.pack --decode --jobs 8
prunekit data check imagenet.pack --source imagenet         is the folder still the same?
prunekit data check photos                                  decode each image of a folder
"""
INFO_EXAMPLES = """
prunekit data info imagenet.pack
prunekit data info photos --test-folder val --json
"""


EXAMPLES = """
prunekit data pack imagenet --test-folder val --dry-run
prunekit data check imagenet.pack
prunekit data info photos --json
"""


@click.group("data", cls=ExampleGroup, examples=EXAMPLES)
def command() -> None:
    """Pack images for training, check that they are whole, and say what is there."""


def places_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the test images of a folder are, as in a recipe."""
    for name, default, metavar, text in (
        ("--test-labels", None, "FILE", "Classes of the test images, relative to ROOT."),
        ("--test-folder", "test", "DIR", "Folder of the test images, relative to ROOT."),
    ):
        option = click.option(name, default=default, metavar=metavar, help=text, show_default=True)
        function = option(function)
    return function


root_argument = click.argument("root", type=click.Path(path_type=Path))


def jobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--jobs N`, by default as many as there are cores."""
    return click.option(
        "--jobs",
        type=click.IntRange(min=1, max=512),
        metavar="N",
        help="Processes.  [default: the CPU cores]",
    )(function)


@command.command("pack", cls=ExampleCommand, examples=PACK_EXAMPLES)
@root_argument
@places_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[default: ROOT.pack]")
@click.option(
    "--side",
    type=click.IntRange(min=1, max=65_535),
    default=256,
    show_default=True,
    metavar="PIXELS",
    help="Shorter side, at most.",
)
@click.option(
    "--quality",
    type=click.IntRange(min=1, max=100),
    default=90,
    show_default=True,
    metavar="Q",
    help="Of JPEGs that are written anew.",
)
@jobs_option
@click.option("--skip-broken", is_flag=True, help="Leave out what cannot be decoded.")
@click.option("--dry-run", is_flag=True, help="Tell what it would take, and end.")
@json_option
def pack_command(
    root: Path,
    test_folder: str,
    test_labels: str | None,
    out: Path | None,
    side: int,
    quality: int,
    jobs: int | None,
    skip_broken: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make the images of a folder small and put them into a few large files, for `image_folder`.

    Images with a shorter side of more than --side pixels are made smaller, once; JPEGs that are
    small enough stay as they are. What was stopped or killed goes on with the same command.
    """
    from prunekit.data.packing import PackSettings, estimate_pack, pack_images
    from prunekit.foundation.processor import available_cores

    settings, jobs = PackSettings(side, quality), jobs or available_cores()
    root = root.expanduser().resolve()
    out = (out or root.with_name(f"{root.name}.pack")).expanduser().absolute()
    indices = indexed(root, test_folder, test_labels)
    found = estimate_pack(indices, settings)
    free = free_bytes(out)
    say(estimate_text(found, settings, jobs, out, free), err=as_json)
    if dry_run:
        if as_json:
            print_json({"out": str(out), **estimate_plain(found, jobs), "free_bytes": free})
        return
    made = pack_images(
        indices,
        out,
        settings,
        root=root,
        needed=found.bytes,
        jobs=jobs,
        skip_broken=skip_broken,
    )
    _tell_of_splits(indices, made)
    if as_json:
        print_json(info_plain(out))
    else:
        say(info_text(out))
        say(f"train on it with data.root={out}")


def _tell_of_splits(indices: Indices, made: PackDocument) -> None:
    """What was noted of the folders, and which images are not in the pack."""
    for split, index in indices.items():
        for note in index.notes:
            say(f"{split}: {note}", err=True)
        if left_out := made.splits[split].left_out:
            say(
                f"{split}: {counted(len(left_out), 'image')} left out that could not be decoded, "
                f"such as {left_out[0]}",
                err=True,
            )


@command.command("check", cls=ExampleCommand, examples=CHECK_EXAMPLES)
@root_argument
@places_options
@click.option("--decode", is_flag=True, help="Decode each image of a pack as well.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="ROOT",
    help="Compare a pack with the folder that it was made of, by names, sizes and times.",
)
@jobs_option
@json_option
def check_command(
    root: Path,
    test_folder: str,
    test_labels: str | None,
    decode: bool,
    source: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Compare each image of a pack with its checksum, or decode each image of a folder.

    Ends with 4 where an image is not whole.
    """
    from prunekit.data.pack_check import changed_since, check_folder, check_pack
    from prunekit.data.pack_format import is_pack, read_pack
    from prunekit.foundation.processor import available_cores

    jobs = jobs or available_cores()
    changed: list[Split] = []
    if is_pack(root):
        document = read_pack(root)
        found = check_pack(root.resolve(), jobs=jobs, decode=decode)
        if source is not None:
            changed = changed_since(document, indexed(source, test_folder, test_labels))
    else:
        found = check_folder(indexed(root, test_folder, test_labels), jobs=jobs)
    if as_json:
        told = {"images": found.images, "wrong": found.wrong, "changed_splits": changed}
        print_json({"root": str(root), **told})
    else:
        say(checked_text(root, found))
    if found.wrong:
        raise DataError(f"{root}: {counted(len(found.wrong), 'image')} not whole")
    if changed:
        raise DataError(
            f"{root}: {source} holds other images now, in {' and '.join(changed)}: pack it again"
        )


@command.command("info", cls=ExampleCommand, examples=INFO_EXAMPLES)
@root_argument
@places_options
@json_option
def info_command(root: Path, test_folder: str, test_labels: str | None, as_json: bool) -> None:
    """Say what a pack or a folder of images holds."""
    from prunekit.data.pack_format import is_pack

    if is_pack(root):
        say(info_text(root)) if not as_json else print_json(info_plain(root))
        return
    indices = indexed(root, test_folder, test_labels)
    splits: dict[str, dict[str, Any]] = {
        split: {"images": len(index), "bytes": int(index.sizes.sum()), "notes": index.notes}
        for split, index in indices.items()
    }
    classes = indices["train"].classes
    if as_json:
        print_json({"root": str(root), "classes": len(classes), "splits": splits})
        return
    say(f"{root}: a folder of images, {counted(len(classes), 'class')}")
    for split, told in splits.items():
        say(f"  {split}: {count(told['images'])} images, {size_text(told['bytes'])}")
        for note in told["notes"]:
            say(f"  {note}")


def indexed(root: Path, test_folder: str, test_labels: str | None) -> dict[Split, FileIndex]:
    """The images of both splits of a folder.

    Raises:
        DataError: there are none, or something cannot be read.
    """
    from prunekit.data.file_index import FolderLayout, index_files

    places = FolderLayout(root.expanduser().resolve(), test_folder, test_labels)
    return index_files(places)[0]


def free_bytes(path: Path) -> int:
    """Of the disk on which a folder is, or will be."""
    there = next(parent for parent in (path, *path.parents) if parent.is_dir())
    return shutil.disk_usage(there).free
