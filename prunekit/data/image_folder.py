"""Any images, sorted into one folder a class or listed with their classes in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from prunekit.data.cache import cached
from prunekit.data.decode import decode
from prunekit.data.image_files import ImageFile, by_folder, by_list
from prunekit.errors import DataError
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
    the same in both splits. Hidden entries and files without the extension of an image are left
    out. Images of different sizes need `image_size`.
    """

    name: Literal["image_folder"]
    test_folder: str = Field(default="test", min_length=1)
    """Folder of the test images, relative to `root`."""
    test_labels: str | None = Field(default=None, min_length=1)
    """Text file with a line `FILE CLASS ...` for each test image, relative to `root`, instead of
    one folder a class; FILE is a path in `test_folder`, or a name that is there once."""

    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 1 or 3, H, W]."""
        if self.root is None:
            raise DataError(f"data.root: not set: {self._layout}")
        root = Path(self.root).expanduser().resolve()
        folder = root / self._folder(split)
        try:
            classes = self._classes(root)
            found = self._images(root, split)
            files = [
                _Labelled(label, *file)
                for label, name in enumerate(classes)
                for file in sorted(found[name])
            ]
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read: {error.strerror}: {self._layout}"
            ) from error

        def load() -> Samples:
            images = decode([folder / file.path for file in files], self.image_size)
            return Samples(images, torch.tensor([file.label for file in files]), classes)

        content = json.dumps([FORMAT, str(folder), self.image_size, classes, files])
        return cached(hashlib.sha256(content.encode()).hexdigest()[:32], load)

    @property
    def _layout(self) -> str:
        test = f"{self.test_folder}/CLASS/*"
        if self.test_labels is not None:
            test = f"{self.test_folder}/* with {self.test_labels}"
        return f"data.root must hold train/CLASS/* and {test}"

    def _folder(self, split: Split) -> str:
        return "train" if split == "train" else self.test_folder

    def _images(self, root: Path, split: Split) -> Mapping[str, Iterable[ImageFile]]:
        """Class -> its images, to be read once."""
        if split == "test" and self.test_labels is not None:
            return by_list(root / self.test_folder, root / self.test_labels)
        return by_folder(root / self._folder(split))

    def _classes(self, root: Path) -> tuple[str, ...]:
        """The names of the classes, sorted; each has images in both splits."""
        filled: dict[Split, set[str]] = {"train": set(), "test": set()}
        names: set[str] = set()
        for split, have in filled.items():
            found = self._images(root, split)
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
