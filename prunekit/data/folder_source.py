"""Images of a folder, read from their files one by one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from prunekit.data.decoding import (
    Decoder,
    Take,
    best_decoder,
    decode_named,
    decoder_version,
    is_gray,
    unread,
)
from prunekit.data.file_index import FileIndex
from prunekit.data.sources import Interpolation, Window
from prunekit.errors import DataError
from prunekit.foundation.files import only_regular, open_regular

HEAD = 1 << 16
"""Bytes that tell of an image whether it is gray; where not, all of it is read."""
LOOKED_AT = 64
"""Images of which it is told whether a set is gray."""


class FolderSource:
    """The images of an index.

    Args:
        index: of one split.
        decoder: of JPEGs; None = the best that is installed.
    """

    size: tuple[int, int] | None = None

    def __init__(self, index: FileIndex, decoder: Decoder | None = None) -> None:
        best, reason = best_decoder()
        self.index, self.decoder = index, decoder or best
        self.labels, self.classes = index.labels, index.classes
        self.notes = index.notes + ((f"{reason}: Pillow decodes",) if reason else ())
        self.channels = _channels(index)

    @property
    def decodes(self) -> str:
        """What decodes, with its version."""
        return decoder_version(self.decoder)

    def __len__(self) -> int:
        return len(self.index)

    def fingerprint(self) -> str:
        """SHA-256, 64 hex digits, over names, sizes, times, labels and classes of all images."""
        return self.index.digest()

    def describe(self, index: int) -> str:
        """The path of an image."""
        return str(self.index.path(index))

    def read(
        self,
        index: int,
        window: Window,
        size: tuple[int, int],
        interpolation: Interpolation = "bilinear",
    ) -> Tensor:
        """Decode a window of an image; arguments, result and errors as of `ImageSource.read`."""
        path = self.index.path(index)
        try:
            with open(path, "rb", buffering=0, opener=only_regular) as file:
                self._check(path, index, os.fstat(file.fileno()))
                data = file.readall()
        except OSError as error:
            raise unread(path, error) from error
        take = Take(self.channels, window, size, interpolation)
        return decode_named(path, data, take, self.decoder)

    def _check(self, path: Path, index: int, found: os.stat_result) -> None:
        known = int(self.index.sizes[index]), int(self.index.times[index])
        if (found.st_size, found.st_mtime_ns) == known:
            return
        if self.index.kept is not None:
            with suppress(OSError):
                self.index.kept.unlink()
        raise DataError(f"{path}: was changed after its folder was listed: start again")


def _channels(index: FileIndex) -> int:
    """1 where all of some images are gray, else 3."""
    some = False
    for i in range(0, len(index), max(1, len(index) // LOOKED_AT)):
        try:
            with open_regular(index.path(i)) as file:
                gray = is_gray(file.read(HEAD))
                if gray is None:
                    gray = is_gray(file.read())
        except OSError:
            continue
        if gray is False:
            return 3
        some = some or gray is True
    return 1 if some else 3
