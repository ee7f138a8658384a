"""The images of a split written one after the other, so that a kill at any time loses few of them.

The bytes of an image are written first and its record second; at intervals both are flushed to the
disk. What is there at the next start is what has a record, whose file is long enough, and among the
last of them what has its checksum.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import save_file

from prunekit.data.encoding import Encoded
from prunekit.data.file_index import FileIndex
from prunekit.data.pack_format import DataFile, PackedPart, PackIndex, index_path
from prunekit.errors import DataError
from prunekit.foundation.files import flush, read_bytes, replacing, sha256
from prunekit.registry.configs import Split

FILE_BYTES = 1 << 30
"""A file is as large as this, or as its last image makes it."""
FLUSHED = 2_000
"""Images between two flushes."""


class Record(NamedTuple):
    """What is noted of an image that is written; one without a length could not be decoded."""

    key: int
    """Of the file that it was made of."""
    file: int
    offset: int
    length: int
    check: int
    height: int
    width: int
    gray: int


LAYOUT = struct.Struct("<QIQIIIIB")
KINDS = ("<u8", "<u4", "<u8", "<u4", "<u4", "<u4", "<u4", "u1")
NUMBERS = np.dtype([*zip(Record._fields, KINDS, strict=True)])


class PackWriter:
    """Writes a split into a folder, from where an earlier try ended.

    Args:
        folder: where to.
        split: which one.
        index: the images, in the order in which they are added.
    """

    def __init__(self, folder: Path, split: Split, index: FileIndex) -> None:
        self._folder, self._split, self._index = folder, split, index
        self._keys = _keys(index)
        self._journal_path = folder / f"{split}.journal"

    def __enter__(self) -> Self:
        records = self._records_there()
        self.done = len(records)
        """Images that are written."""
        self.written = int(records["length"].sum())
        """Bytes of them."""
        kept = records[records["length"] > 0]
        last = (int(kept["file"][-1]), _end(kept[-1])) if len(kept) else (0, 0)
        self._file, self._offset = last
        for path in self._folder.glob(f"{self._split}-*.jpegs"):
            if int(path.stem[-5:]) > self._file:
                path.unlink()
        self._journal = _cut(self._journal_path, self.done * LAYOUT.size)
        self._data = _cut(self._path(self._file), self._offset)
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._data.close()
        self._journal.close()

    def add(self, image: Encoded | None) -> None:
        """Write the next image; None where it could not be decoded."""
        if self._offset >= FILE_BYTES:
            self._next_file()
        data, height, width, gray = image or (b"", 0, 0, 0)
        self._data.write(data)
        record = Record(
            int(self._keys[self.done]),
            self._file,
            self._offset,
            len(data),
            zlib.crc32(data),
            height,
            width,
            int(gray),
        )
        self._journal.write(LAYOUT.pack(*record))
        self.done += 1
        self.written += len(data)
        self._offset += len(data)
        if self.done % FLUSHED == 0:
            self.flush()

    def flush(self) -> None:
        """Wait until all is on the disk, the images before their records."""
        for file in (self._data, self._journal):
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> PackedPart:
        """Write the index of all images.

        Raises:
            DataError: not one image of a class could be decoded.
            WriteError: the index cannot be written.
        """
        self.flush()
        records = np.frombuffer(read_bytes(self._journal_path), NUMBERS)
        good = records["length"] > 0
        names = [os.fsencode(self._index.name(i)) for i in np.flatnonzero(good).tolist()]
        labels = self._index.labels[torch.from_numpy(good)]
        counts = labels.bincount(minlength=len(self._index.classes))
        if bool((counts == 0).any()):
            empty = self._index.classes[int(counts.argmin())]
            raise DataError(
                f"{self._index.folder}: no image of class {empty} could be decoded: replace them"
            )
        kept = {
            key: torch.from_numpy(records[key][good].astype(np.int64)) for key in Record._fields
        }
        ends = torch.tensor([len(name) for name in names]).cumsum(0)
        index = PackIndex(
            names=torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8),
            ends=ends,
            labels=labels,
            files=kept["file"],
            offsets=kept["offset"],
            lengths=kept["length"],
            checks=kept["check"],
            heights=kept["height"],
            widths=kept["width"],
        )
        path = index_path(self._folder, self._split)
        with replacing(path) as temporary:
            save_file(index.arrays(), temporary)
        paths = [self._path(i) for i in range(self._file + 1)]
        left_out = [self._index.name(i) for i in np.flatnonzero(~good).tolist()]
        return PackedPart(
            images=len(labels),
            channels=1 if bool(kept["gray"].all()) else 3,
            files=tuple(DataFile(name=one.name, size=one.stat().st_size) for one in paths),
            index=sha256(path),
            source=self._index.digest(),
            left_out=tuple(name.encode(errors="backslashreplace").decode() for name in left_out),
        )

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}.jpegs"

    def _next_file(self) -> None:
        self.flush()
        self._data.close()
        self._file, self._offset = self._file + 1, 0
        self._data = _cut(self._path(self._file), 0)

    def _records_there(self) -> np.ndarray:
        """Those of the first images of the index, as far as all is there."""
        none = np.empty(0, NUMBERS)
        if not self._journal_path.is_file():
            return none
        whole = self._journal_path.stat().st_size // LAYOUT.size
        records = np.fromfile(self._journal_path, NUMBERS, count=min(whole, len(self._keys)))
        same = records["key"] == self._keys[: len(records)]
        records = records[: len(records) if same.all() else int(same.argmin())]
        sizes = {}
        for number in np.unique(records["file"]).tolist():
            with suppress(OSError):
                sizes[number] = self._path(number).stat().st_size
        there = np.array([sizes.get(number, -1) for number in records["file"].tolist()])
        fits = records["offset"] + records["length"] <= there.astype(np.int64).clip(min=0)
        records = records[: len(records) if fits.all() else int(fits.argmin())]
        for i in range(max(0, len(records) - 2 * FLUSHED), len(records)):
            if not self._as_noted(records[i]):
                return records[:i]
        return records

    def _as_noted(self, record: np.void) -> bool:
        with self._path(int(record["file"])).open("rb") as file:
            file.seek(int(record["offset"]))
            return zlib.crc32(file.read(int(record["length"]))) == int(record["check"])


def _keys(index: FileIndex) -> np.ndarray:
    """Of each image 64 bits of a hash of its name, size and time."""
    found = np.empty(len(index), np.uint64)
    for i in range(len(index)):
        text = f"{index.name(i)}\0{int(index.sizes[i])}\0{int(index.times[i])}"
        digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
        found[i] = int.from_bytes(digest, "little")
    return found


def _end(record: np.void) -> int:
    return int(record["offset"]) + int(record["length"])


def _cut(path: Path, size: int) -> BinaryIO:
    """A file open for writing at its end, which is at `size`."""
    made = not path.exists()
    file = path.open("ab")
    file.truncate(size)
    if made:
        flush(path.parent)
    return file
