"""The small models that strategies are tried on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import DataSpec


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A model of a few hundred weights, for images of `input_shape`."""

    build: Callable[[], nn.Module]
    """Returns a fresh model, [B, *input_shape] -> [B, classes]; reads the global random state."""
    input_shape: tuple[int, int, int]
    """[C, H, W]."""
    classes: int


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1, 2))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)
    )


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def _tied() -> nn.Module:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    layers = {"flat": nn.Flatten(), "a": first, "act": nn.ReLU(), "b": second}
    return nn.Sequential(OrderedDict(layers | {"head": nn.Linear(8, 4)}))


def _attention() -> nn.Module:
    config = ViTConfig(name="vit", patch_size=2, depth=1, embed_dim=8, heads=2)
    return config.build(DataSpec(channels=4, height=4, width=4, classes=4))


SMALL_MODELS: Mapping[str, SmallModel] = {
    "tiny": SmallModel(_tiny, (1, 1, 1), 2),
    "mlp": SmallModel(_mlp, (1, 4, 4), 4),
    "conv": SmallModel(_conv, (4, 4, 4), 4),
    "tied": SmallModel(_tied, (2, 2, 2), 4),
    "attention": SmallModel(_attention, (4, 4, 4), 4),
}
"""Simplest first: one tensor of two weights; biases and a LayerNorm; BatchNorm; a weight that two
layers share; a vision transformer with fused qkv."""
