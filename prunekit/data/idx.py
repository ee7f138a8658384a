"""The IDX format of MNIST and its relatives, plain or gzipped.

Big-endian: two zero bytes, 8 for unsigned bytes, the number of dimensions, one uint32 a dimension,
then the values.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from prunekit.data.memory import require_memory
from prunekit.errors import DataError

REMEDY = "fetch it again, for example with data.download=true after removing it"


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of unsigned bytes.

    Args:
        path: the file; `.gz` is unpacked on the fly.
        dimensions: how many the file must have.

    Returns:
        uint8, the shape that the file declares.

    Raises:
        DataError: not such a file, cut short, or longer than it declares.
        ResourceError: larger than the memory.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}: {REMEDY}") from error


def _read(file: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> Tensor:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path}: not an IDX file of {dimensions} dimensions: {REMEDY}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = prod(shape)
    require_memory(size, str(path), REMEDY)
    data = bytearray(file.read(size + 1))
    if len(data) != size or size == 0:
        found = "more" if len(data) > size else f"{len(data)}"
        raise DataError(f"{path}: {found} bytes where its header says {size}: {REMEDY}")
    return torch.frombuffer(data, dtype=torch.uint8).view(shape)
