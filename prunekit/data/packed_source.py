"""Images of a packed set, read from its large files one by one."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from io import BytesIO, FileIO
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from torch import Tensor

from prunekit.data.decoding import Decoder, Take, best_decoder, decode_named, decoder_version
from prunekit.data.pack_format import read_index, read_pack
from prunekit.data.sources import Interpolation, Window
from prunekit.errors import DataError
from prunekit.foundation.files import only_regular
from prunekit.registry.configs import Split


class DataFiles:
    """Files of which parts are read, each opened when it is first needed, in each process anew."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: dict[int, FileIO] = {}

    def read(self, file: int, offset: int, length: int) -> bytes:
        """A part of a file, shorter where the file ends before.

        Raises:
            OSError: it cannot be read.
        """
        if file not in self._open:
            path = self.paths[file]
            self._open[file] = open(path, "rb", buffering=0, opener=only_regular)  # noqa: SIM115
        return read_part(self._open[file], offset, length)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_open": {}}

    def __del__(self) -> None:
        for file in self._open.values():
            file.close()


ONE_AT_A_TIME = Lock()


def read_part(file: FileIO, offset: int, length: int) -> bytes:
    """A part of a file that several threads read."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), length, offset)
    with ONE_AT_A_TIME:  # Windows: a file has one place
        file.seek(offset)
        return file.read(length)


class PackedSource:
    """The images of a split of a packed set.

    Args:
        folder: of the pack.
        split: which one.
        decoder: of JPEGs; None = the best that is installed.

    Raises:
        DataError: the pack is damaged.
    """

    def __init__(self, folder: Path, split: Split, decoder: Decoder | None = None) -> None:
        best, reason = best_decoder()
        self.decoder = decoder or best
        self.document = read_pack(folder)
        part = self.document.splits[split]
        self.index = read_index(folder, split, self.document)
        self.labels, self.classes = self.index.labels, self.document.classes
        self.channels: int = part.channels
        self.size = _one_size(self.index.heights, self.index.widths)
        self.notes: tuple[str, ...] = (f"{reason}: Pillow decodes",) if reason else ()
        if part.left_out:
            self.notes += (
                f"{folder}: {len(part.left_out)} images of the {split} split could not be decoded "
                f"when it was packed, such as {part.left_out[0]}",
            )
        self._files = DataFiles([folder / file.name for file in part.files])

    @property
    def decodes(self) -> str:
        """What decodes, with its version."""
        return decoder_version(self.decoder)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """SHA-256, 64 hex digits, over names, lengths, checks, labels and classes of all images."""
        found = hashlib.sha256(repr(self.classes).encode(errors="surrogateescape"))
        index = self.index
        for array in (index.names, index.ends, index.labels, index.lengths, index.checks):
            found.update(array.numpy().data)
        return found.hexdigest()

    def describe(self, index: int) -> str:
        """The file of the pack, and the name that the image had."""
        path = self._files.paths[int(self.index.files[index])]
        return f"{path} ({self.name(index)})"

    def name(self, index: int) -> str:
        """That of an image in the folder that was packed."""
        begin = int(self.index.ends[index - 1]) if index else 0
        return os.fsdecode(self.index.names[begin : int(self.index.ends[index])].numpy().tobytes())

    def encoded(self, index: int) -> bytes:
        """An image as it is stored.

        Raises:
            DataError: it cannot be read, or is not what was written.
        """
        of = self.index
        length = int(of.lengths[index])
        try:
            data = self._files.read(int(of.files[index]), int(of.offsets[index]), length)
        except OSError as error:
            raise DataError(
                f"{self.describe(index)}: cannot be read: {error.strerror}: pack again"
            ) from error
        if len(data) != length or zlib.crc32(data) != int(of.checks[index]):
            raise DataError(f"{self.describe(index)}: damaged: not what was written: pack again")
        return data

    def read(
        self,
        index: int,
        window: Window,
        size: tuple[int, int],
        interpolation: Interpolation = "bilinear",
    ) -> Tensor:
        """Decode a window of an image; arguments, result and errors as of `ImageSource.read`."""
        take = Take(self.channels, window, size, interpolation)
        return decode_named(PackedImage(self, index), self.encoded(index), take, self.decoder)


class PackedImage:
    """An image of a pack, to be opened like the path of one."""

    def __init__(self, source: PackedSource, index: int) -> None:
        self._source, self._index = source, index

    def __str__(self) -> str:
        return self._source.describe(self._index)

    def open(self, mode: Literal["rb"]) -> BytesIO:
        """Its bytes."""
        return BytesIO(self._source.encoded(self._index))


def _one_size(heights: Tensor, widths: Tensor) -> tuple[int, int] | None:
    """Height and width, where all have the same."""
    height, width = int(heights[0]), int(widths[0])
    same = bool((heights == height).all()) and bool((widths == width).all())
    return (height, width) if same else None
