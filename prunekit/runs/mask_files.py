"""Files of masks: packed bits in safetensors, with their shapes. Torch-free at import."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prunekit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MASKS_FORMAT = "prunekit-masks-1"


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write masks as packed bits, with their shapes and a digest.

    Args:
        path: the file to make or replace.
        masks: parameter name -> bool tensor of any shape.

    Raises:
        WriteError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    import numpy as np
    import torch

    from prunekit.runs.tensors import write_tensors

    packed = {
        name: torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))
        for name, mask in masks.items()
    }
    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    write_tensors(path, packed, {"format": MASKS_FORMAT, "shapes": shapes})


def read_masks(path: Path) -> dict[str, Tensor]:
    """Read masks: parameter name -> bool tensor, True = kept.

    Raises:
        CheckpointError: missing, cut short, changed, or not a file of masks.
    """
    from prunekit.runs.tensors import read_tensors

    packed, metadata = read_tensors(path)
    if metadata.get("format") != MASKS_FORMAT:
        raise CheckpointError(f"{path}: not a file of masks written by prunekit")
    try:
        shapes = json.loads(metadata["shapes"])
        if set(shapes) != set(packed):
            raise ValueError("other names")
        return {name: _unpack(packed[name], shape) for name, shape in shapes.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: corrupt: masks and shapes do not match") from error


def _unpack(packed: Tensor, shape: list[int]) -> Tensor:
    import numpy as np
    import torch

    entries = math.prod(shape)
    if (
        packed.dtype != torch.uint8
        or packed.shape != (-(-entries // 8),)
        or min(shape, default=0) < 0
    ):
        raise ValueError("another size")
    bits = np.unpackbits(packed.numpy(), count=entries)
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)
