"""The image files of both splits of a set in arrays: a few bytes a file, kept between runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunekit.data.listing import ARCHIVES, ImageFile, LeftOut, by_folder, by_list
from prunekit.errors import DataError
from prunekit.foundation.bar import Bar
from prunekit.foundation.files import open_regular
from prunekit.registry.configs import Split

HELD_OUT = ("val", "valid", "validation", "eval", "dev", "test")
"""What others call the folder of a test split."""
NAMED = 3
"""So many classes are named in an error."""


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """Where the images of a set lie."""

    root: Path
    test_folder: str = "test"
    test_labels: str | None = None
    """The class of each test image, a file relative to `root`; None = a folder a class."""

    def folder(self, split: Split) -> Path:
        """That of a split."""
        return self.root / ("train" if split == "train" else self.test_folder)

    @property
    def told(self) -> str:
        """What must lie where."""
        test = f"{self.test_folder}/CLASS/*"
        if self.test_labels is not None:
            test = f"{self.test_folder}/* with {self.test_labels}"
        return f"data.root must hold train/CLASS/* and {test}"

    def images(self, split: Split, left_out: LeftOut) -> Mapping[str, Iterator[ImageFile]]:
        """Class -> its images, to be read once."""
        if split == "test" and self.test_labels is not None:
            found = by_list(self.folder("test"), self.root / self.test_labels, left_out)
        else:
            found = by_folder(self.folder(split), left_out)
        return {name: iter(images) for name, images in found.items()}


@dataclass(frozen=True, slots=True)
class FileIndex:
    """The images of one split, in the order of class and name."""

    folder: Path
    """Names are relative to it."""
    classes: tuple[str, ...]
    names: Tensor
    """uint8, all names one after the other, as the file system has them."""
    ends: Tensor
    """int64 [N], where each name ends in `names`."""
    labels: Tensor
    """int64 [N]."""
    sizes: Tensor
    """int64 [N], bytes of each file."""
    times: Tensor
    """int64 [N], when each was changed, nanoseconds."""
    notes: tuple[str, ...] = ()
    """What was left out."""
    kept: Path | None = None
    """Where it is kept for the next run; None = nowhere."""

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """Of an image, relative to `folder`."""
        begin = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[begin : int(self.ends[index])].numpy().tobytes())

    def path(self, index: int) -> Path:
        """Of an image."""
        return self.folder / self.name(index)

    def digest(self) -> str:
        """SHA-256 over names, sizes, times, labels and classes, 64 hex digits."""
        found = hashlib.sha256(repr(self.classes).encode(errors="surrogateescape"))
        for tensor in (self.names, self.ends, self.labels, self.sizes, self.times):
            found.update(tensor.numpy().data)
        return found.hexdigest()

    def content_digest(self) -> str:
        """As `digest`, over what the files hold instead of their sizes and times; reads them all.

        Raises:
            DataError: a file cannot be read.
        """
        found = hashlib.sha256(repr(self.classes).encode(errors="surrogateescape"))
        for tensor in (self.names, self.ends, self.labels):
            found.update(tensor.numpy().data)
        with Bar("reading", len(self), "images") as bar:
            for index in range(len(self)):
                path = self.path(index)
                try:
                    with open_regular(path) as file:
                        found.update(hashlib.file_digest(file, "sha256").digest())
                except OSError as error:
                    raise DataError(f"{path}: cannot be read: {error.strerror}") from error
                bar.add()
        return found.hexdigest()


def index_files(layout: FolderLayout) -> tuple[dict[Split, FileIndex], dict[str, int]]:
    """Go through the folders of both splits.

    Returns:
        The images of each split, and each folder and file of labels with its time of change.

    Raises:
        DataError: something cannot be read, a class has no images in a split, or there is none.
    """
    left_out: dict[Split, LeftOut] = {"train": LeftOut(), "test": LeftOut()}
    found = {split: _Arrays() for split in left_out}
    times: dict[str, int] = {}
    note: tuple[str, ...] = ()
    try:
        if layout.test_labels is not None:
            labels = layout.root / layout.test_labels
            times[str(labels)] = labels.stat().st_mtime_ns
        with Bar("listing", None, "images") as bar:
            for split, arrays in found.items():
                images = layout.images(split, left_out[split])
                if split == "test":
                    images, note = _by_number(images, found["train"].counts, layout)
                for name in sorted(images):
                    bar.add(arrays.add(name, images[name]))
    except OSError as error:
        closed = _archive(layout.root)
        raise DataError(
            f"{error.filename}: cannot be read: {error.strerror}: {layout.told}"
            f"{closed or _meant(layout)}"
        ) from error
    classes = _classes(layout, {split: arrays.counts for split, arrays in found.items()})
    indices: dict[Split, FileIndex] = {}
    for split, arrays in found.items():
        folder = layout.folder(split)
        notes = left_out[split].notes(folder) + (note if split == "test" else ())
        indices[split] = arrays.index(folder, classes, notes)
        times |= left_out[split].folders
    return indices, times


class _Arrays:
    """Grows by a class at a time; few objects are alive at once."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._names, self._numbers = bytearray(), [torch.empty(3, 0, dtype=torch.int64)]

    def add(self, name: str, images: Iterator[ImageFile]) -> int:
        """Add the images of a class; returns how many there are."""
        files = sorted(images)
        rows = []
        for file in files:
            self._names += os.fsencode(file.path)
            rows.append((len(self._names), file.size, file.mtime))
        if rows:
            self._numbers.append(torch.tensor(rows, dtype=torch.int64).T)
        self.counts[name] = len(files)
        return len(files)

    def index(self, folder: Path, classes: tuple[str, ...], notes: tuple[str, ...]) -> FileIndex:
        """All that was added, in the order of `classes`."""
        ends, sizes, times = torch.cat(self._numbers, dim=1).contiguous().unbind()
        counts = torch.tensor([self.counts[name] for name in classes])
        labels = torch.arange(len(classes)).repeat_interleave(counts)
        names = torch.frombuffer(self._names, dtype=torch.uint8).clone()
        return FileIndex(folder, classes, names, ends, labels, sizes, times, notes)


def _classes(layout: FolderLayout, counts: Mapping[Split, Mapping[str, int]]) -> tuple[str, ...]:
    """The names of the classes, sorted; each has images in both splits."""
    names = {name for count in counts.values() for name in count}
    for split, count in counts.items():
        if empty := sorted(name for name in names if not count.get(name)):
            more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
            raise DataError(
                f"{layout.folder(split)}: no images of class {', '.join(empty[:NAMED])}{more}: "
                f"{layout.told}, and every class some in both; data.test_folder names another "
                "folder, data.test_labels a file of labels"
            )
    if not names:
        folder = layout.folder("train")
        raise DataError(f"{folder}: no folder of a class in it: {layout.told}")
    return tuple(sorted(names))


def _by_number(
    images: Mapping[str, Iterator[ImageFile]], train: Collection[str], layout: FolderLayout
) -> tuple[Mapping[str, Iterator[ImageFile]], tuple[str, ...]]:
    """The same images by the names of the training folders, where a list numbers those from 0.

    Raises:
        DataError: the numbers are of another order.
    """
    if layout.test_labels is None or not images or {*images} & {*train}:
        return images, ()
    if not all(name.isdecimal() and name.isascii() for name in images):
        return images, ()
    names, numbers = sorted(train), {name: int(name) for name in images}
    where = layout.root / layout.test_labels
    if min(numbers.values()) == 1 or max(numbers.values()) >= len(names):
        raise DataError(
            f"{where}: classes are numbers of {min(numbers.values())} .. {max(numbers.values())}, "
            f"and the {len(names)} training folders in their order are 0 .. {len(names) - 1}: "
            "write the name of the folder as the class"
        )
    note = f"{where}: classes are numbers, taken for the training folders in order: 0 is {names[0]}"
    return {names[numbers[name]]: found for name, found in images.items()}, (note,)


def _meant(layout: FolderLayout) -> str:
    """What to set where a split lies under another name; empty where nothing looks like one."""
    if not layout.folder("train").is_dir():
        with suppress(OSError):
            inner = sorted(path.parent for path in layout.root.glob("*/train") if path.is_dir())
            return f": did you mean data.root={inner[0]}?" if inner else ""
    elif not layout.folder("test").is_dir():
        for name in HELD_OUT:
            if (layout.root / name).is_dir():
                return f": there is {name}: did you mean data.test_folder={name}?"
    return ""


def _archive(root: Path) -> str:
    """The remedy where a set has not been unpacked."""
    try:
        found = min(name for name in os.listdir(root) if name.lower().endswith(ARCHIVES))
    except (OSError, ValueError):
        return ""
    return f"; {found} is to be unpacked first"
