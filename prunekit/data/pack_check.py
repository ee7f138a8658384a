"""Whether all images of a set are whole: those of a pack by their checksums, all by decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image

from prunekit.data.file_index import FileIndex
from prunekit.data.images import FORMATS, check_readable, why_broken
from prunekit.data.pack_format import SPLITS, PackDocument
from prunekit.data.packed_source import PackedSource
from prunekit.data.workers import Task, results_in_order, worth
from prunekit.errors import DataError
from prunekit.foundation.bar import Bar
from prunekit.foundation.files import read_bytes
from prunekit.registry.configs import Split

CHUNK = 64
"""Images a task."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what is wrong with it."""

    images: int
    wrong: list[str]
    """A sentence for each image that is not whole."""


def check_pack(folder: Path, *, jobs: int = 1, decode: bool = False) -> Checked:
    """Compare each image of a pack with its checksum.

    Args:
        folder: of the pack.
        jobs: processes.
        decode: whether to decode each image as well.

    Raises:
        DataError: the pack is damaged as a whole.
    """
    parts = {split: len(PackedSource(folder, split)) for split in SPLITS}
    tasks = [
        (split, begin, min(begin + CHUNK, images))
        for split, images in parts.items()
        for begin in range(0, images, CHUNK)
    ]
    return _checked(partial(_check_part, folder, decode), tasks, sum(parts.values()), jobs)


def check_folder(indices: Mapping[Split, FileIndex], *, jobs: int = 1) -> Checked:
    """Decode each image of a folder."""
    tasks = [
        tuple(map(index.path, range(begin, min(begin + CHUNK, len(index)))))
        for index in indices.values()
        for begin in range(0, len(index), CHUNK)
    ]
    return _checked(_decode_all, tasks, sum(map(len, indices.values())), jobs)


def changed_since(document: PackDocument, indices: Mapping[Split, FileIndex]) -> list[Split]:
    """The splits of a pack whose folder holds other images now."""
    return [split for split in SPLITS if document.splits[split].source != indices[split].digest()]


def bytes_of_split(document: PackDocument, split: Split) -> int:
    """Of the images of a split."""
    return sum(file.size for file in document.splits[split].files)


def _checked(
    work: Callable[[Task], tuple[int, list[str]]], tasks: list[Task], images: int, jobs: int
) -> Checked:
    wrong: list[str] = []
    with (
        Bar("checking", images, "images") as bar,
        closing(results_in_order(work, tasks, worth(jobs, images))) as results,
    ):
        for number, found in results:
            wrong += found
            bar.add(number)
    return Checked(images, wrong)


def _check_part(folder: Path, decode: bool, task: tuple[Split, int, int]) -> tuple[int, list[str]]:
    split, begin, end = task
    return end - begin, list(_wrong_of(_opened(folder, split), decode, range(begin, end)))


def _wrong_of(source: PackedSource, decode: bool, places: range) -> Iterator[str]:
    for i in places:
        try:
            data = source.encoded(i)
        except DataError as error:
            yield str(error)
            continue
        if decode and (why := _why_broken(data)):
            yield f"{source.describe(i)}: cannot be decoded: {why}: pack again"


_SOURCES: dict[tuple[Path, Split], PackedSource] = {}
"""Opened once in each process."""


def _opened(folder: Path, split: Split) -> PackedSource:
    key = folder, split
    if key not in _SOURCES:
        _SOURCES.clear()
        _SOURCES[key] = PackedSource(folder, split, "pillow")
    return _SOURCES[key]


def _decode_all(paths: tuple[Path, ...]) -> tuple[int, list[str]]:
    wrong = []
    for path in paths:
        try:
            why = _why_broken(read_bytes(path))
        except OSError as error:
            why = error.strerror or str(error)
        if why:
            wrong.append(f"{path}: cannot be decoded: {why}: replace or remove it")
    return len(paths), wrong


def _why_broken(data: bytes) -> str:
    """What is wrong with an image; empty where nothing is."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_readable(image.width, image.height, image.mode)
            image.load()
    except Exception as error:  # decoders raise whatever a broken file leads them to
        return why_broken(error)
    return ""
