"""The labels that a user's own data set lists, so that no image is read for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

LISTED = ("targets", "labels")
"""Attributes of torchvision's data sets."""


def known_labels(source: Any) -> Tensor | None:
    """int64 [N]; None where they are not listed, or something is done to them afterwards.

    Args:
        source: a map-style data set; also a `Subset`, `ConcatDataset` or `TensorDataset` of torch.
    """
    if getattr(source, "target_transform", None) is not None:
        return None
    if isinstance(source, torch.utils.data.Subset):
        inner = known_labels(source.dataset)
        return None if inner is None else inner[torch.as_tensor(source.indices)]
    if isinstance(source, torch.utils.data.ConcatDataset):
        parts = [known_labels(part) for part in source.datasets]
        return None if None in parts else torch.cat([part for part in parts if part is not None])
    if isinstance(source, torch.utils.data.TensorDataset) and len(source.tensors) == 2:
        return _whole(source.tensors[1])
    listed = (getattr(source, name, None) for name in LISTED)
    return next((found for one in listed if (found := _whole(one)) is not None), None)


def _whole(listed: Any) -> Tensor | None:
    """Numbers in one line, as int64."""
    if not isinstance(listed, list | tuple | np.ndarray | Tensor):
        return None
    try:
        found = torch.as_tensor(listed)
    except (TypeError, ValueError, RuntimeError):
        return None
    if found.ndim != 1 or found.is_floating_point() or found.dtype == torch.bool:
        return None
    return found.to(torch.int64).clone()
