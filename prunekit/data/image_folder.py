"""Any images, sorted into one folder a class."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from stat import S_ISREG
from typing import Literal, NamedTuple

import torch

from prunekit.data.base import DatasetConfig, Samples, Split
from prunekit.data.cache import cached
from prunekit.data.decode import EXTENSIONS, decode
from prunekit.errors import DataError

FORMAT = 1
"""Part of the cache key: to be raised when the same files would decode to other pixels."""
LAYOUT = "data.root must hold train/CLASS/* and test/CLASS/*"


class _File(NamedTuple):
    label: int
    path: str
    """Relative to the folder of the split."""
    size: int
    mtime: int


class ImageFolderConfig(DatasetConfig):
    """Images as `<root>/train/<class>/*` and `<root>/test/<class>/*`, decoded once and kept.

    Classes are sorted by name and must be the same in both splits. Hidden entries, folders inside a
    class and files without the extension of an image are left out. Images of different sizes need
    `image_size`.
    """

    name: Literal["image_folder"]

    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 1 or 3, H, W]."""
        if self.root is None:
            raise DataError(f"data.root: not set: {LAYOUT}")
        root = Path(self.root).expanduser().resolve()
        classes = _classes(root)
        folder = root / split
        try:
            files = [
                file for label, name in enumerate(classes) for file in _files(folder, name, label)
            ]
        except OSError as error:
            raise _unreadable(error) from error

        def load() -> Samples:
            images = decode([folder / file.path for file in files], self.image_size)
            return Samples(images, torch.tensor([file.label for file in files]), classes)

        content = json.dumps([FORMAT, str(folder), self.image_size, classes, files])
        return cached(hashlib.sha256(content.encode()).hexdigest()[:32], load)


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: cannot be read: {error.strerror}: {LAYOUT}")


def _classes(root: Path) -> tuple[str, ...]:
    """The names of the classes, sorted; each has images in both splits."""
    try:
        found = {split: _filled(root / split) for split in ("train", "test")}
    except OSError as error:
        raise _unreadable(error) from error
    names = sorted(found["train"].keys() | found["test"].keys())
    for split, filled in found.items():
        if empty := [name for name in names if not filled.get(name)]:
            raise DataError(
                f"{root / split}: no images of class {', '.join(empty)}: every class must have "
                "some in train and in test"
            )
    if not names:
        raise DataError(f"{root / 'train'}: no folder of a class in it: {LAYOUT}")
    return tuple(names)


def _filled(folder: Path) -> dict[str, bool]:
    """Class name -> whether there is an image."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    filled = {}
    for name in names:
        with os.scandir(folder / name) as entries:
            filled[name] = any(map(_is_image, entries))
    return filled


def _files(folder: Path, name: str, label: int) -> list[_File]:
    with os.scandir(folder / name) as entries:
        stats = {entry.name: entry.stat() for entry in entries if _has_image_name(entry)}
    return [
        _File(label, f"{name}/{file}", found.st_size, found.st_mtime_ns)
        for file, found in sorted(stats.items())
        if S_ISREG(found.st_mode)
    ]


def _is_image(entry: os.DirEntry[str]) -> bool:
    return _has_image_name(entry) and entry.is_file()


def _has_image_name(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
