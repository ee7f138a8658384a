"""Inputs to try a model with, where nobody says what it takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

SIZES = {1: (32, 64, 128, 256, 16), 2: (32, 64, 224, 28, 128, 256, 16, 8), 3: (16, 32, 8, 64)}
"""Lengths of the sides that a convolution's input may have, by its axes."""
TOKENS = 16
MOST = 48
"""Inputs to try before giving up."""


def candidates(model: nn.Module, shape: tuple[int, ...] | None) -> Iterator[list[Tensor]]:
    """Inputs of one sample: of the shape that is known, else of those that the layers suggest."""
    parameter = next(model.parameters(), torch.zeros(()))
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    generator = torch.Generator().manual_seed(0)

    def noise(*sizes: int) -> Tensor:
        drawn = torch.randn(1, *sizes, generator=generator)
        return drawn.to(parameter.device, dtype)

    if shape is not None:
        yield [noise(*shape)]
        return
    if isinstance(model, nn.MultiheadAttention):
        widths = (model.embed_dim, model.kdim or model.embed_dim, model.vdim or model.embed_dim)
        yield [noise(TOKENS, width) for width in widths]
        return
    seen: dict[tuple[int, ...], None] = {}
    for one in _shapes(model):
        if one not in seen and len(seen) < MOST:
            seen[one] = None
            yield [noise(*one)]
    if any(isinstance(module, nn.Embedding) for module in model.modules()):
        yield [torch.zeros(1, TOKENS, dtype=torch.int64, device=parameter.device)]


def _shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(cfg, dict) and isinstance(cfg.get("input_size"), tuple | list):
        yield tuple(cfg["input_size"])
    side = getattr(model, "image_size", None)
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            axes = len(module.kernel_size)
            if isinstance(side, int):
                yield (module.in_channels, *[side] * axes)
            for size in SIZES[axes]:
                yield (module.in_channels, *[size] * axes)
            yield (*[TOKENS] * axes, module.in_channels)  # its owner may turn it around
        elif isinstance(module, nn.Linear):
            yield from _shapes_of_features(module.in_features)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            yield tuple(module.normalized_shape)
            yield (TOKENS, *module.normalized_shape)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            features = getattr(module, "num_features", getattr(module, "num_channels", 1))
            yield (features, 32, 32)
            yield (features,)


def _shapes_of_features(features: int) -> Iterator[tuple[int, ...]]:
    yield (features,)
    yield (TOKENS, features)
    for channels in (1, 3):
        side = round((features / channels) ** 0.5)
        if channels * side * side == features:
            yield (channels, side, side)
    yield (4, 4, features)
