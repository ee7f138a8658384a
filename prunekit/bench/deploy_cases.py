"""Models that `prunekit bench deploy` serves: dense, zeroed, smaller, with fewer tokens.

A model whose units were removed is a dense one of smaller layers, so it is built as one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.compressors.tome import Tome
from prunekit.export.latency import session_pass
from prunekit.export.programs import trace, write_onnx
from prunekit.models.latency import Pass
from prunekit.models.placing import attach
from prunekit.models.vit import ViTConfig
from prunekit.models.vit_blocks import Attention, EncoderBlock
from prunekit.registry.configs import DataSpec

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
"""Of zeros in place."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is measured, and whether goals may be judged by it."""

    side: int
    """Height and width of an image, in pixels."""
    patch: int
    width: int
    depth: int
    heads: int
    least: int
    """Rounds at least."""
    most: int
    """Rounds at most."""
    judged: bool

    @property
    def spec(self) -> DataSpec:
        """Images of three channels, ten classes."""
        return DataSpec(channels=3, height=self.side, width=self.side, classes=10)

    def vit(self, heads: int = 0, hidden: int = 0) -> nn.Module:
        """A vision transformer, the same each time.

        Args:
            heads: that are left in each block; 0 = all.
            hidden: units that are left in each MLP; 0 = all.
        """
        torch.manual_seed(0)
        config = ViTConfig(
            name="vit",
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            heads=self.heads,
        )
        model = config.build(self.spec)
        for block in model.modules():
            if isinstance(block, EncoderBlock):
                _shrink(block, heads or self.heads, hidden or 4 * self.width)
        return model.eval()

    def merging(self, ratio: float) -> nn.Module:
        """The vision transformer, whose patch tokens `tome` merges in one place."""
        model = self.vit()
        attach(model, "tokens", Tome(Tome.Config(name="tome", ratio=ratio)), self.spec.input_shape)
        return model.eval()

    def resnet18(self, keep: float = 1.0, multiple: int = 1) -> nn.Module:
        """torchvision's, with so many channels left of each width, to the nearest multiple."""
        from torchvision import models

        torch.manual_seed(0)
        model: nn.Module = models.resnet18(num_classes=self.spec.classes)
        widths = {
            width: max(multiple, round(width * keep / multiple) * multiple)
            for width in (64, 128, 256, 512)
        }
        for path, module in list(model.named_modules()):
            if (smaller := _narrowed(module, widths)) is not None:
                owner, _, name = path.rpartition(".")
                setattr(model.get_submodule(owner), name, smaller)
        return model.eval()

    def images(self, batch: int) -> Tensor:
        """Noise."""
        return torch.randn(
            batch, *self.spec.input_shape, generator=torch.Generator().manual_seed(1)
        )


FULL = Served(side=224, patch=16, width=384, depth=4, heads=6, least=15, most=60, judged=True)
"""ViT 384x4 with 6 heads, and ResNet-18: 1.5 and 1.8 G multiply-adds."""
QUICK = Served(side=32, patch=4, width=32, depth=1, heads=2, least=2, most=2, judged=False)
"""Shows that it runs, and says nothing about speed."""


def _shrink(block: EncoderBlock, heads: int, hidden: int) -> None:
    """Fewer heads and hidden units, as are left once the rest is removed."""
    attention = block.attn
    assert isinstance(attention, Attention)
    width = attention.proj.out_features
    inner = width // attention.num_heads * heads
    attention.qkv = nn.Linear(width, 3 * inner)
    attention.proj = nn.Linear(inner, width)
    attention.num_heads = heads
    block.mlp.fc1 = nn.Linear(width, hidden)
    block.mlp.fc2 = nn.Linear(hidden, width)


def _narrowed(module: nn.Module, widths: dict[int, int]) -> nn.Module | None:
    """A layer with other numbers of channels; None for what has none."""
    if isinstance(module, nn.Conv2d):
        return nn.Conv2d(
            widths.get(module.in_channels, module.in_channels),
            widths[module.out_channels],
            module.kernel_size,  # type: ignore[arg-type]
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            bias=False,
        )
    if isinstance(module, _BatchNorm):
        return nn.BatchNorm2d(widths[module.num_features])
    if isinstance(module, nn.Linear):
        return nn.Linear(widths[module.in_features], module.out_features)
    return None


def with_zeros(model: nn.Module, sparsity: float) -> nn.Module:
    """Set the smallest weights of each matrix and kernel to zero, the head's left out."""
    *matrices, _ = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] > 1]
    with torch.no_grad():
        for weight in matrices:
            weight.masked_fill_(smallest(weight, sparsity), 0)
    return model


def smallest(weight: Tensor, share: float) -> Tensor:
    """Bool, as `weight`: which entries are among the share of those nearest to zero."""
    count = round(share * weight.numel())
    order = weight.detach().abs().flatten().argsort()
    found = torch.zeros(weight.numel(), dtype=torch.bool)
    found[order[:count]] = True
    return found.view_as(weight)


def as_onnx(model: nn.Module, images: Tensor, path: Path) -> Path:
    """Write a model as `prunekit export` does."""
    write_onnx(path, trace(model, images, path.stem), {}, path.stem)
    return path


def in_onnxruntime(path: Path) -> Pass:
    """Its pass, on one thread."""
    return session_pass(path, 1)


def quantised(path: Path, *, symmetric: bool) -> Path:
    """Weights in 8 bits by onnxruntime, ranges of activations taken as they come.

    Args:
        path: an ONNX file.
        symmetric: signed around 0, a scale for each channel; else unsigned, a scale a tensor.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    to = path.with_suffix(".int8.onnx" if symmetric else ".uint8.onnx")
    with _no_advice():
        quantize_dynamic(
            path,
            to,
            per_channel=symmetric,
            weight_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        )
    return to


@contextmanager
def _no_advice() -> Iterator[None]:
    """Onnxruntime advises to optimise the graph first, through the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)


def zeros_in(path: Path) -> float:
    """Share of zeros in the matrices of an ONNX file: of 8 bits, entries at their zero point."""
    import numpy as np
    import onnx

    arrays = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer
    }
    zeros = entries = 0
    for name, array in arrays.items():
        if array.ndim > 1 and array.shape[0] > 1:
            point = arrays.get(name.removesuffix("_quantized") + "_zero_point", np.zeros(1))
            zeros += int((array == point.reshape(-1)[0]).sum())
            entries += array.size
    return zeros / entries


def share_text(value: float) -> str:
    """0.9 -> `90 %`."""
    return f"{100 * value:.0f} %"


def title_of(size: Served, name: str) -> str:
    """`ViT 384x4, 224 px`."""
    what = f"ViT {size.width}x{size.depth}" if name == "vit" else "ResNet-18"
    return f"{what}, {size.side} px"
