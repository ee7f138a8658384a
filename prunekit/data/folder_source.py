"""Images of a folder, read from their files one by one."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from prunekit.data.kept_document import kept
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
        by_content: whether the fingerprint is over what the files hold.
    """

    size: tuple[int, int] | None = None

    def __init__(
        self, index: FileIndex, decoder: Decoder | None = None, *, by_content: bool = False
    ) -> None:
        best, reason = best_decoder()
        self.index, self.decoder, self.by_content = index, decoder or best, by_content
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
        """SHA-256, 64 hex digits, over names, labels, classes, and times with sizes, or content."""
        return _kept_content(self.index) if self.by_content else self.index.digest()

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


def _kept_content(index: FileIndex) -> str:
    """Its `content_digest`: files are read again once one has another name, size or time."""
    listed = f"{index.folder} {index.digest()}".encode(errors="surrogateescape")
    name = f"{hashlib.sha256(listed).hexdigest()[:32]}.content.json"
    return kept(name, index.content_digest, lambda digest: {"sha256": digest}, _digest_of)


def _digest_of(document: Any) -> str:
    digest = bytes.fromhex(document["sha256"])
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("no SHA-256")
    return digest.hex()


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
