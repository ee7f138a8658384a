"""Which images a folder holds, and of which class each is."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prunekit.data.decode import EXTENSIONS
from prunekit.errors import DataError


class ImageFile(NamedTuple):
    """An image that has not been read."""

    path: str
    """Relative to the folder of its split."""
    size: int
    """Bytes."""
    mtime: int
    """Nanoseconds."""


def by_folder(folder: Path) -> Mapping[str, Iterable[ImageFile]]:
    """Each folder in `folder` is a class: its name -> the images anywhere below, as they are found.

    Raises:
        OSError: a folder cannot be read; also while the images are gone through.
    """
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return {name: _images(folder, f"{name}/") for name in names}


def by_list(folder: Path, labels: Path) -> Mapping[str, Iterable[ImageFile]]:
    """The images anywhere below `folder`, by the class that the file `labels` gives each.

    A line is a file and its class, between tabs, or between blanks where it has no tab; what
    follows is left out. A file is a path in `folder`, or a name that is there once.

    Raises:
        DataError: a line that is none, a file that is missing or not one, an image without a line.
        OSError: something cannot be read.
    """
    by_name: defaultdict[str, list[ImageFile]] = defaultdict(list)
    unlisted = {}
    for image in _images(folder, ""):
        by_name[image.path.rpartition("/")[2]].append(image)
        unlisted[image.path] = image
    known = by_name | {path: [image] for path, image in unlisted.items()}
    classes: defaultdict[str, list[ImageFile]] = defaultdict(list)
    for number, file, name in _lines(labels):
        found = known.get(file, [])
        if len(found) != 1:
            what = "no such image" if not found else f"{len(found)} images of that name"
            raise DataError(f"{labels}:{number}: {file}: {what} in {folder}: correct the line")
        if unlisted.pop(found[0].path, None) is None:
            raise DataError(f"{labels}:{number}: {file}: listed twice: remove a line")
        classes[name].append(found[0])
    if unlisted:
        raise DataError(
            f"{labels}: no class for {len(unlisted)} images in {folder}, such as "
            f"{min(unlisted)}: add their lines or remove them"
        )
    return classes


def _lines(labels: Path) -> Iterator[tuple[int, str, str]]:
    """Number, file and class of each line that is not blank."""
    try:
        lines = labels.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{labels}: is not UTF-8 text: give the file of labels") from error
    for number, line in enumerate(lines, start=1):
        columns = [c.strip() for c in (line.split("\t") if "\t" in line else line.split())]
        if len(columns) > 1 and all(columns[:2]):
            yield number, columns[0], columns[1]
        elif line.strip():
            raise DataError(f"{labels}:{number}: is not FILE CLASS: correct the line")


def _images(folder: Path, below: str) -> Iterator[ImageFile]:
    """The images in `folder / below` and in its folders; `below` is empty or ends in a slash."""
    with os.scandir(folder / below) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):  # a link may lead back up
            yield from _images(folder, f"{below}{entry.name}/")
        elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            found = entry.stat()
            yield ImageFile(below + entry.name, found.st_size, found.st_mtime_ns)
