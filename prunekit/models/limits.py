"""Whether a model fits into memory, before any of its tensors is made."""

from __future__ import annotations

import torch
from torch import nn

from prunekit.errors import ResourceError
from prunekit.foundation.number_text import si, size_text
from prunekit.foundation.system import memory_left
from prunekit.registry.configs import DataSpec, ModelConfig

FEW = 10**6
"""Bytes that are always there."""


def refuse_too_large(config: ModelConfig, spec: DataSpec) -> None:
    """Build a model without its values, and compare its size with what is left.

    It may take its gradients and more besides, perhaps on another device: they are not counted, so
    that nothing is refused which could have run. What cannot be built so passes.

    Raises:
        ResourceError: its parameters and buffers alone take more than the host has left.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = config.model_copy(update={"init": None}).build(spec)
        size = _bytes(model)
    except Exception:  # it is told by whoever builds it in earnest
        return
    left = memory_left()
    if size > max(left, FEW):
        count = sum(p.numel() for p in model.parameters())
        raise ResourceError(
            f"model: {si(count)} parameters take {size_text(size)}, and {size_text(left)} of "
            "memory are left: make it, or data.image_size, smaller"
        )


def _bytes(model: nn.Module) -> int:
    """Whole numbers, so that none is too large for them."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
