"""How large a benchmark is: as the goals say, or just large enough to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.models.vit import ViTConfig
from prunekit.registry.configs import DataSpec

CLASSES = 10


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, how often, and whether goals may be judged by it."""

    width: int
    """Of a token of the vision transformer, whose images have 32 px and patches 4."""
    depth: int
    """Its blocks."""
    batch: int
    """Images of a training step."""
    layers: int
    """Blocks of as many weights that the threshold is searched in."""
    least: int
    """Rounds at least."""
    most: int
    """Rounds at most."""
    judged: bool

    def vit(self) -> nn.Module:
        """A vision transformer, the same each time."""
        torch.manual_seed(0)
        heads = max(1, self.width // 128)
        config = ViTConfig(
            name="vit", patch_size=4, embed_dim=self.width, depth=self.depth, heads=heads
        )
        return config.build(DataSpec(channels=3, height=32, width=32, classes=CLASSES))

    def images(self, batch: int) -> tuple[Tensor, Tensor]:
        """Noise and labels."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(batch, 3, 32, 32, generator=generator)
        return x, torch.randint(CLASSES, (batch,), generator=generator)

    def weights(self) -> list[Tensor]:
        """Normal weights in the shapes of transformer blocks, without a model around them."""
        generator, w = torch.Generator().manual_seed(2), self.width
        shapes = [(3 * w, w), (w, w), (4 * w, w), (w, 4 * w)] * self.layers
        return [torch.empty(shape).normal_(0, 0.02, generator=generator) for shape in shapes]


FULL = Size(width=384, depth=4, batch=8, layers=16, least=15, most=60, judged=True)
"""ViT 384x4 with 7.1 M weights in scope; 28.3 M weights to search in."""
QUICK = Size(width=32, depth=1, batch=2, layers=4, least=2, most=2, judged=False)
"""Seconds in all: shows that it runs, and says nothing about speed."""
