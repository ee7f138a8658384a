"""The types of numbers that a recipe names, and passes in them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Forward passes in this type; float32 changes nothing."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def unscale_again(scaler: torch.amp.GradScaler) -> None:
    """Let a scaler unscale the gradients of one more pass in a step; its scale stays."""
    if scaler.is_enabled():
        scaler.update(scaler.get_scale())
