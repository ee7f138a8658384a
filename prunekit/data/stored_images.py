"""The images of a split as they are stored, to be decoded into memory all at once."""

from __future__ import annotations

import abc
import hashlib
import json
from functools import cached_property

from torch import Tensor

from prunekit.data.file_index import FileIndex
from prunekit.data.images import ImageLike, decode, open_image
from prunekit.data.packed_source import PackedImage, PackedSource
from prunekit.registry.configs import Samples

FORMAT = 1
"""Part of the cache key: to be raised when the same files would decode to other pixels."""


READ = 256
"""Files of which the content is looked at each time: of a smaller set, all of them."""


class StoredImages(abc.ABC):
    """Those of a split, and what is known of them."""

    labels: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @abc.abstractmethod
    def __getitem__(self, index: int) -> ImageLike:
        """What is opened to read an image."""

    @abc.abstractmethod
    def key(self, side: int | None) -> str:
        """That of the decoded images in the cache: changes with whatever they depend on."""

    def __len__(self) -> int:
        return len(self.labels)

    def decoded(self, side: int | None) -> Samples:
        """All of them, as `images.decode` does it with `image_size=side`.

        Raises:
            DataError: an image cannot be decoded, or sizes differ and there is no `side`.
            ResourceError: they are larger than the memory.
        """
        images = decode([self[i] for i in range(len(self))], side)
        return Samples(images, self.labels, self.classes)


class FolderImages(StoredImages):
    """Of folders."""

    def __init__(self, index: FileIndex) -> None:
        self.index, self.labels, self.classes = index, index.labels, index.classes
        self.notes = index.notes

    def __getitem__(self, index: int) -> ImageLike:
        return self.index.path(index)

    def key(self, side: int | None) -> str:
        """Over the folder and its files."""
        folder = str(self.index.folder)
        return _hashed([FORMAT, folder, side, self.classes, self._files, self._content])

    @cached_property
    def _content(self) -> str:
        """SHA-256 over what is in some of the files: not every change shows in size and time."""
        found = hashlib.sha256()
        for i in range(0, len(self), max(1, len(self) // READ)):
            try:
                with open_image(self[i]) as file:
                    found.update(hashlib.sha256(file.read()).digest())
            except OSError as error:  # it is told when it is decoded
                found.update(str(error.errno).encode())
        return found.hexdigest()

    @cached_property
    def _files(self) -> list[tuple[int, str, int, int]]:
        index = self.index
        names = [index.name(i) for i in range(len(index))]
        numbers = (index.labels.tolist(), names, index.sizes.tolist(), index.times.tolist())
        return list(zip(*numbers, strict=True))


class PackedImages(StoredImages):
    """Of a packed set."""

    def __init__(self, source: PackedSource) -> None:
        self.source, self.labels, self.classes = source, source.labels, source.classes
        self.notes = source.notes

    def __getitem__(self, index: int) -> ImageLike:
        return PackedImage(self.source, index)

    def key(self, side: int | None) -> str:
        """Over what the pack holds, wherever it lies."""
        return _hashed([FORMAT, "pack", side, self.source.fingerprint()])


def _hashed(content: list[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
