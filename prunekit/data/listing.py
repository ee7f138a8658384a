"""The image files of a folder and their classes: by the folders they lie in, or by a list."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prunekit.data.images import EXTENSIONS
from prunekit.errors import DataError
from prunekit.foundation.files import text_of

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
UNPACK = (
    "archives of classes: unpack each into a folder of its name, with "
    "`for f in *.tar; do mkdir ${f%.tar} && tar -xf $f -C ${f%.tar}; done`"
)

BOXES = re.compile(r"(\S+( \d+){4} ?)+")
"""A class and a rectangle, as often as there are any: how Kaggle tells the class of an image."""


class ImageFile(NamedTuple):
    """An image that has not been read."""

    path: str
    """Relative to the folder of its split."""
    size: int
    """Bytes."""
    mtime: int
    """Nanoseconds."""


class LeftOut:
    """What lies among images and is not read as one: counted, with an example of each kind."""

    def __init__(self) -> None:
        self.paths: defaultdict[str, list[str]] = defaultdict(list)
        """Kind -> what is of it."""
        self.folders: dict[str, int] = {}
        """Each folder that was gone through -> its time of change before that, nanoseconds."""

    def add(self, kind: str, path: str) -> None:
        """Count one."""
        self.paths[kind].append(path)

    def notes(self, folder: Path) -> tuple[str, ...]:
        """One sentence about all of it, where there is any."""
        told = [
            f"{kind}: {len(paths)}, such as {min(paths)}"
            for kind, paths in sorted(self.paths.items())
        ]
        return (f"{folder}: left out: {'; '.join(told)}",) if told else ()


def by_folder(folder: Path, left_out: LeftOut) -> Mapping[str, Iterable[ImageFile]]:
    """Each folder in `folder` is a class: its name -> the images anywhere below, as they are found.

    Raises:
        DataError: classes lie there as archives.
        OSError: a folder cannot be read; also while the images are gone through.
    """
    visible = _visible(folder, left_out)
    names = {entry.name for entry in visible if entry.is_dir()}
    others = [entry.name for entry in visible if entry.name not in names]
    packed = [name for name in others if name.lower().endswith(ARCHIVES)]
    if closed := sorted(name for name in packed if name.partition(".")[0] not in names):
        more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
        raise DataError(f"{folder}: {closed[0]}{more}: {UNPACK}")
    for name in others:
        if name.lower().endswith(EXTENSIONS):
            left_out.add("images in no folder of a class", name)
    return {name: _images(folder, f"{name}/", left_out) for name in sorted(names)}


def _visible(folder: Path | str, left_out: LeftOut) -> list[os.DirEntry[str]]:
    """What a folder holds, without what is hidden."""
    left_out.folders[str(folder)] = os.stat(folder).st_mtime_ns
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def by_list(folder: Path, labels: Path, left_out: LeftOut) -> Mapping[str, Iterable[ImageFile]]:
    """The images anywhere below `folder`, by the class that the file `labels` gives each.

    A line is a file and its class, between tabs, or between blanks where it has no tab; what
    follows is left out. In a `.csv` commas part them, and a first line of headings is passed over.
    A file is a path in `folder`, or a name that is there once, with or without its extension.

    Raises:
        DataError: a line that is none, a file that is missing or not one, an image without a line.
        OSError: something cannot be read.
    """
    images = list(_images(folder, "", left_out))
    unlisted = {image.path: image for image in images}
    known = _by_any_name(images)
    classes: defaultdict[str, list[ImageFile]] = defaultdict(list)
    for number, file, name in _lines(labels):
        found = known.get(file, [])
        if number == 1 and not found and labels.suffix.lower() == ".csv":
            continue
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


def _by_any_name(images: Iterable[ImageFile]) -> Mapping[str, list[ImageFile]]:
    """Path, else name, else name without extension -> the images that it may mean."""
    paths, names, stems = {}, defaultdict(list), defaultdict(list)
    for image in images:
        name = image.path.rpartition("/")[2]
        paths[image.path] = [image]
        names[name].append(image)
        stems[name.rpartition(".")[0]].append(image)
    return {**stems, **names, **paths}


def _lines(labels: Path) -> Iterator[tuple[int, str, str]]:
    """Number, file and class of each line that is not blank."""
    try:
        lines = text_of(labels, "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{labels}: is not UTF-8 text: give the file of labels") from error
    if lines and all(line.strip().isdecimal() for line in lines[:3]):
        raise DataError(
            f"{labels}: numbers without files, whose order is known to meta.mat of the development "
            "kit alone: write a line FILE CLASS for each image, or give LOC_val_solution.csv"
        )
    for number, line in enumerate(lines, start=1):
        columns = _columns(line, labels.suffix.lower() == ".csv")
        if len(columns) > 1 and all(columns[:2]):
            yield number, columns[0], columns[1]
        elif line.strip():
            raise DataError(f"{labels}:{number}: is not FILE CLASS: correct the line")


def _columns(line: str, commas: bool) -> list[str]:
    if commas:
        [columns] = csv.reader([line])
        if len(columns) > 1 and BOXES.fullmatch(columns[1].strip()):
            columns[1] = columns[1].split()[0]
    else:
        columns = line.split("\t") if "\t" in line else line.split()
    return [column.strip() for column in columns]


def _images(folder: Path, below: str, left_out: LeftOut) -> Iterator[ImageFile]:
    """The images in `folder / below` and in its folders; `below` is empty or ends in a slash."""
    for entry in _visible(folder / below, left_out):
        if entry.is_dir(follow_symlinks=False):  # a link may lead back up
            yield from _images(folder, f"{below}{entry.name}/", left_out)
        elif entry.is_dir():
            left_out.add("links to folders", below + entry.name)
        elif not entry.name.lower().endswith(EXTENSIONS):
            ending = Path(entry.name).suffix.lower() or "other"
            left_out.add(f"{ending} files, read as no image", below + entry.name)
        elif not entry.is_file():
            left_out.add("links that lead to no file", below + entry.name)
        else:
            found = entry.stat()
            yield ImageFile(below + entry.name, found.st_size, found.st_mtime_ns)
