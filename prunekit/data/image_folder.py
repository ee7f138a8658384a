"""Any images, sorted into one folder a class or listed with their classes in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator

from prunekit.data.cache import cached
from prunekit.data.images import EXTENSIONS, decode
from prunekit.errors import DataError
from prunekit.foundation.values import NewKey
from prunekit.registry.configs import DatasetConfig, Samples, Split

FORMAT = 1
"""Part of the cache key: to be raised when the same files would decode to other pixels."""
NAMED = 3
"""So many classes are named in an error."""


class _Labelled(NamedTuple):
    label: int
    path: str
    size: int
    mtime: int


class ImageFolderConfig(DatasetConfig):
    """Images as `<root>/train/<class>/*` and `<root>/test/<class>/*`, decoded once and kept.

    Images may lie in folders inside that of their class. Classes are sorted by name and must be
    the same in both splits. Hidden entries are left out; so are links to folders or to nothing and
    files that are no images by their extension, and a run warns of those. Images of different
    sizes need `image_size`.
    """

    name: Literal["image_folder"]
    test_folder: str = Field(default="test", min_length=1)
    """Folder of the test images, relative to `root`."""
    test_labels: str | None = Field(default=None, min_length=1)
    """Text file with a line `FILE CLASS ...` for each test image, relative to `root`, instead of
    one folder a class; FILE is a path in `test_folder`, or a name that is there once."""
    keep_size: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=1)
    """Side in pixels of the squares that are kept in memory, of which `random_resized_crop` and
    `eval_resize` take theirs; null = `image_size`."""

    @field_validator("keep_size")
    @classmethod
    def _holds_image_size(cls, keep_size: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("image_size")
        if keep_size is not None and (side is None or keep_size < side):
            wanted = "set data.image_size" if side is None else f"at least image_size, {side}"
            raise ValueError(f"is the side of which image_size is taken: {wanted}")
        return keep_size

    @property
    def kept_side(self) -> int | None:
        """`keep_size`."""
        return self.keep_size

    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 1 or 3, H, W]."""
        if self.root is None:
            raise DataError(f"data.root: not set: {self._layout}")
        root = Path(self.root).expanduser().resolve()
        folder = root / self._folder(split)
        try:
            classes = self._classes(root)
            left_out = LeftOut()
            found = self._images(root, split, left_out)
            files = [
                _Labelled(label, *file)
                for label, name in enumerate(classes)
                for file in sorted(found[name])
            ]
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read: {error.strerror}: {self._layout}"
            ) from error

        side = self.keep_size or self.image_size

        def load() -> Samples:
            images = decode([folder / file.path for file in files], side)
            return Samples(images, torch.tensor([file.label for file in files]), classes)

        content = json.dumps([FORMAT, str(folder), side, classes, files])
        samples = cached(hashlib.sha256(content.encode()).hexdigest()[:32], load)
        return replace(samples, notes=left_out.notes(folder))

    @property
    def _layout(self) -> str:
        test = f"{self.test_folder}/CLASS/*"
        if self.test_labels is not None:
            test = f"{self.test_folder}/* with {self.test_labels}"
        return f"data.root must hold train/CLASS/* and {test}"

    def _folder(self, split: Split) -> str:
        return "train" if split == "train" else self.test_folder

    def _images(
        self, root: Path, split: Split, left_out: LeftOut
    ) -> Mapping[str, Iterable[ImageFile]]:
        """Class -> its images, to be read once."""
        if split == "test" and self.test_labels is not None:
            return by_list(root / self.test_folder, root / self.test_labels, left_out)
        return by_folder(root / self._folder(split), left_out)

    def _classes(self, root: Path) -> tuple[str, ...]:
        """The names of the classes, sorted; each has images in both splits."""
        filled: dict[Split, set[str]] = {"train": set(), "test": set()}
        names: set[str] = set()
        for split, have in filled.items():
            found = self._images(root, split, LeftOut())
            have |= {name for name, images in found.items() if any(True for _ in images)}
            names |= found.keys()
        for split, have in filled.items():
            if empty := sorted(names - have):
                more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
                raise DataError(
                    f"{root / self._folder(split)}: no images of class "
                    f"{', '.join(empty[:NAMED])}{more}: {self._layout}, and every class some in "
                    "both; data.test_folder names another folder, data.test_labels a file of labels"
                )
        if not names:
            raise DataError(f"{root / 'train'}: no folder of a class in it: {self._layout}")
        return tuple(sorted(names))


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
        OSError: a folder cannot be read; also while the images are gone through.
    """
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    names = [entry.name for entry in visible if entry.is_dir()]
    for entry in visible:
        if entry.name not in names and entry.name.lower().endswith(EXTENSIONS):
            left_out.add("images in no folder of a class", entry.name)
    return {name: _images(folder, f"{name}/", left_out) for name in names}


def by_list(folder: Path, labels: Path, left_out: LeftOut) -> Mapping[str, Iterable[ImageFile]]:
    """The images anywhere below `folder`, by the class that the file `labels` gives each.

    A line is a file and its class, between tabs, or between blanks where it has no tab; what
    follows is left out. A file is a path in `folder`, or a name that is there once.

    Raises:
        DataError: a line that is none, a file that is missing or not one, an image without a line.
        OSError: something cannot be read.
    """
    by_name: defaultdict[str, list[ImageFile]] = defaultdict(list)
    unlisted = {}
    for image in _images(folder, "", left_out):
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


def _images(folder: Path, below: str, left_out: LeftOut) -> Iterator[ImageFile]:
    """The images in `folder / below` and in its folders; `below` is empty or ends in a slash."""
    with os.scandir(folder / below) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
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
