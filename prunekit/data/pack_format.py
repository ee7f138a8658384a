"""What a packed set is on the disk: a few large files of JPEGs, an index of each split, a document.

`pack.json` is written last and says what the rest must be, so a pack is whole or none. Offsets and
counts of a file that may come from anywhere are checked before anything is read by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunekit.errors import DataError
from prunekit.foundation.files import sha256, text_of
from prunekit.foundation.values import Frozen, as_values
from prunekit.registry.configs import Split

DOCUMENT = "pack.json"
LARGEST_DOCUMENT = 1 << 26
"""Bytes; that of a set of a million classes is smaller."""
LONGEST_SIDE = 65_535
"""Pixels that a JPEG can have."""
SPLITS: tuple[Split, ...] = ("train", "test")
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class DataFile(Frozen):
    """A file of JPEGs, one after the other."""

    name: str = Field(pattern=r"^(train|test)-[0-9]{5}\.jpegs$")
    size: int = Field(ge=0)
    """Bytes."""


class PackedPart(Frozen):
    """What is said of a split."""

    images: int = Field(ge=1)
    channels: Literal[1, 3]
    """1 = all images are gray."""
    files: tuple[DataFile, ...] = Field(min_length=1)
    index: Digest
    """SHA-256 of `<split>.index`."""
    source: Digest
    """Of the files that were packed: names, sizes, times, labels and classes."""
    left_out: tuple[str, ...] = ()
    """Images that could not be decoded."""


class PackDocument(Frozen):
    """What `pack.json` holds."""

    format: Literal["prunekit pack"] = "prunekit pack"
    version: Literal[1] = 1
    made_by: str
    date: str
    root: str
    """The folder that was packed."""
    short_side: int = Field(ge=1)
    """Pixels of the shorter side, at most."""
    quality: int = Field(ge=1, le=100)
    """Of the JPEGs that were written anew."""
    classes: tuple[str, ...] = Field(min_length=1)
    splits: dict[Split, PackedPart]


@dataclass(frozen=True, slots=True)
class PackIndex:
    """The images of a split in arrays."""

    names: Tensor
    """uint8, all names one after the other, as the file system had them."""
    ends: Tensor
    """int64 [N], where each name ends in `names`."""
    labels: Tensor
    """int64 [N]."""
    files: Tensor
    """int64 [N], which file of the split each image is in."""
    offsets: Tensor
    """int64 [N], where it begins there."""
    lengths: Tensor
    """int64 [N], bytes."""
    checks: Tensor
    """int64 [N], the CRC-32 of its bytes."""
    heights: Tensor
    """int64 [N], pixels."""
    widths: Tensor
    """int64 [N], pixels."""

    def arrays(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def is_pack(folder: Path) -> bool:
    """Whether a folder is a packed set, or says so."""
    return (folder / DOCUMENT).is_file()


def read_pack(folder: Path) -> PackDocument:
    """What a packed set says of itself.

    Raises:
        DataError: it is missing, damaged, or of a later version.
    """
    path = folder / DOCUMENT
    try:
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise damaged(path, "it is too large")
        content = json.loads(text_of(path))
        if _is_later(content):
            raise DataError(f"{path}: packed by a later prunekit: update, or pack again")
        found = PackDocument.model_validate(as_values(content))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}: give a packed set") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise damaged(path, f"{where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is no JSON document") from error
    if set(found.splits) != set(SPLITS):
        raise damaged(path, "it does not have the splits train and test")
    return found


def _is_later(content: object) -> bool:
    known = isinstance(content, dict) and content.get("format") == "prunekit pack"
    version = content.get("version") if isinstance(content, dict) and known else None
    return isinstance(version, int) and version > 1


def read_index(folder: Path, split: Split, document: PackDocument) -> PackIndex:
    """The index of a split, every number of which fits the files that are there.

    Raises:
        DataError: something is missing or damaged.
    """
    part, path = document.splits[split], index_path(folder, split)
    sizes = [_size(folder / file.name, file.size) for file in part.files]
    try:
        if sha256(path) != part.index:
            raise damaged(path, "it does not have its SHA-256")
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        index = PackIndex(**found)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}: pack again") from error
    except (SafetensorError, TypeError) as error:
        raise damaged(path, "it is no index") from error
    if wrong := _wrong(index, part.images, len(document.classes), torch.tensor(sizes)):
        raise damaged(path, wrong)
    return index


def index_path(folder: Path, split: Split) -> Path:
    """Where the index of a split is."""
    return folder / f"{split}.index"


def damaged(path: Path, what: str) -> DataError:
    """The error for a file of a pack that is not as it was written."""
    return DataError(f"{path}: damaged: {what}: pack again")


def _size(path: Path, size: int) -> int:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}: pack again") from error
    if found != size:
        raise damaged(path, f"{found} bytes, and {size} were written")
    return size


def _wrong(index: PackIndex, images: int, classes: int, sizes: Tensor) -> str:
    """The first thing that does not fit; empty where all does."""
    arrays = index.arrays()
    names = arrays.pop("names")
    if names.dtype != torch.uint8 or names.ndim != 1:
        return "names are no bytes"
    for name, array in arrays.items():
        if array.dtype != torch.int64 or tuple(array.shape) != (images,):
            return f"{name} are not {images} numbers"
    limits: Mapping[str, tuple[int, int]] = {
        "ends": (0, len(names)),
        "labels": (0, classes - 1),
        "files": (0, len(sizes) - 1),
        "offsets": (0, int(sizes.max())),
        "lengths": (1, int(sizes.max())),
        "checks": (0, 2**32 - 1),
        "heights": (1, LONGEST_SIDE),
        "widths": (1, LONGEST_SIDE),
    }
    for name, (low, high) in limits.items():
        least, most = (int(end) for end in arrays[name].aminmax())
        if least < low or most > high:
            return f"{name} are {least} .. {most}, not within {low} .. {high}"
    if bool((index.ends.diff() < 0).any()) or int(index.ends[-1]) != len(names):
        return "names do not follow each other"
    if bool((index.lengths > sizes[index.files] - index.offsets).any()):
        return "images reach beyond the end of their file"
    return ""


def document_text(document: PackDocument) -> str:
    """As it is written: names of classes may hold what is no UTF-8."""
    plain: dict[str, Any] = document.model_dump(mode="python")
    return json.dumps(plain, indent=1) + "\n"
