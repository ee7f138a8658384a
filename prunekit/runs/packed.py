"""Tensors of many zeros as a bitmask and the other values: 1/7 of the bytes at 90 % zeros.

Of a packed tensor NAME a file holds `NAME.bitmask`, uint8 [ceil(entries / 8)], whose bit i (the
lowest bit of a byte first) tells whether entry i of the flattened tensor is there, and
`NAME.values`, these entries in their order. An entry is left out where all its bits are zero, so
that -0.0 and NaN come back as they were. Shapes stand in the metadata, under
`prunekit-packed`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKED = "prunekit-packed"
"""Metadata key: JSON of {name: shape} of the packed tensors; a file without it is plain."""
BITMASK, VALUES = ".bitmask", ".values"
OVERHEAD = 256
"""Bytes that a packed tensor may add to the header of a file, besides twice its name."""


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Pack each tensor that takes fewer bytes so, its part of the header counted.

    Args:
        tensors: name -> tensor on the CPU.

    Returns:
        What to write, and the metadata to write with it: empty where nothing is packed.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = {name + BITMASK, name + VALUES}
        there = None if parts & tensors.keys() else _worth_it(name, tensor)
        if there is None:
            stored[name] = tensor
            continue
        bits = np.packbits(there.numpy(), bitorder="little")
        stored[name + BITMASK] = torch.from_numpy(bits)
        stored[name + VALUES] = _raw(tensor)[there].reshape(-1).view(tensor.dtype)
        shapes[name] = list(tensor.shape)
    return stored, {PACKED: json.dumps(shapes)} if shapes else {}


def _worth_it(name: str, tensor: Tensor) -> Tensor | None:
    """Bool [entries], where an entry has a bit that is not zero; None where plain is as small."""
    entries, width = tensor.numel(), tensor.element_size()
    if not entries:
        return None
    there = (_raw(tensor) != 0).any(-1)
    size = -(-entries // 8) + int(there.sum()) * width + OVERHEAD + 2 * len(name.encode())
    return there if size < entries * width else None


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of each entry: uint8 [entries, bytes an entry]."""
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).view(len(flat), tensor.element_size())


def unpack(stored: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file; all sizes are compared before one is made.

    Raises:
        ValueError: shapes, bits and values do not fit each other.
    """
    shapes = json.loads(metadata[PACKED])
    if not isinstance(shapes, dict):
        raise ValueError("the shapes of packed tensors are no table")
    rest = {n: tensor for n, tensor in stored.items() if n not in _parts(shapes)}
    if both := rest.keys() & shapes.keys():
        raise ValueError(f"{min(both)} is there both packed and plain")
    bits = {name: _bits(name, shape, stored) for name, shape in shapes.items()}
    return rest | {name: _unpacked(name, shapes[name], bits[name], stored) for name in shapes}


def _parts(names: Mapping[str, Any]) -> set[str]:
    return {name + part for name in names for part in (BITMASK, VALUES)}


def _bits(name: str, shape: Any, stored: Mapping[str, Tensor]) -> Tensor:
    """Bool [entries], of a tensor whose shape, bits and values fit each other."""
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"the shape of {name} is no list of lengths")
    mask, values = stored.get(name + BITMASK), stored.get(name + VALUES)
    if mask is None or values is None:
        raise ValueError(f"{name} lacks its bits or its values")
    entries = math.prod(shape)
    if mask.dtype != torch.uint8 or mask.shape != (-(-entries // 8),) or values.ndim != 1:
        raise ValueError(f"the bits of {name} do not fit its shape")
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[entries:].any() or int(bits.sum(dtype=np.int64)) != len(values):
        raise ValueError(f"the bits of {name} do not fit its values")
    return torch.from_numpy(bits[:entries].astype(np.bool_))


def _unpacked(name: str, shape: list[int], bits: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
    values = stored[name + VALUES]
    raw = torch.zeros(len(bits), values.element_size(), dtype=torch.uint8)
    raw[bits] = _raw(values)
    return raw.reshape(-1).view(values.dtype).reshape(shape)
