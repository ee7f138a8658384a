"""Wide residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from prunekit.models.layers import Width, start_convolutions, widths_of
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig


class WRNConfig(ModelConfig):
    """The wide residual network WRN-d-k of Zagoruyko and Komodakis for CIFAR.

    A 3x3 convolution, then three stages of blocks of two 3x3 convolutions, each behind BatchNorm
    and ReLU, the second and third stage at half the side of the one before; BatchNorm, ReLU and one
    linear layer behind the mean over positions. A shortcut that changes shape is a 1x1 convolution.
    Channels inside a block can be removed; what blocks hand on is fixed by `stages`.
    """

    name: Literal["wrn"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    depth: int = Field(default=22, ge=10)
    """d: 6n + 4 for n blocks a stage, such as 16, 22, 28, 40."""
    widen_factor: int = Field(default=2, ge=1)
    """k: stages of 16k, 32k and 64k channels."""
    stem: Width = 16
    """Output channels of the first convolution."""
    stages: tuple[Width, Width, Width] | None = None
    """Channels that the blocks of each stage hand on; null = 16, 32 and 64 times `widen_factor`."""
    widths: tuple[Width, ...] | None = None
    """Output channels of the first convolution of each block; null = those of its stage."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance that an entry between the two convolutions of a block is 0 in training."""

    paper = "arXiv:1605.07146"

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if (depth - 4) % 6:
            below = depth - (depth - 4) % 6
            raise ValueError(f"{depth} is not 6n + 4: use {below} or {below + 6}")
        return depth

    @field_validator("widths")
    @classmethod
    def _one_width_each(
        cls, widths: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        depth = info.data.get("depth")
        if widths is not None and depth is not None and len(widths) != (depth - 4) // 2:
            raise ValueError(
                f"{len(widths)} widths for the {(depth - 4) // 2} blocks of depth {depth}: give "
                "one each, or null"
            )
        return widths

    @property
    def handed_on(self) -> tuple[int, int, int]:
        """Channels that the blocks of each stage hand on."""
        k = self.widen_factor
        return self.stages or (16 * k, 32 * k, 64 * k)

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the first convolution of each block."""
        return tuple(self._channels())

    def _channels(self) -> Iterator[int]:
        """One after the other: a file may say any depth."""
        blocks = (self.depth - 4) // 6
        yield from self.widths or (c for c in self.handed_on for _ in range(blocks))

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `conv1`, `layer1`, `layer2`, `layer3`, `bn1`, `fc`.

        See `start_convolutions` for the kernels.
        """
        blocks, channels = (self.depth - 4) // 6, self._channels()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(spec.channels, self.stem, 3, padding=1, bias=False)
        )
        inputs = self.stem
        for stage, outputs in enumerate(self.handed_on, start=1):
            made = []
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                made.append(WideBlock(inputs, next(channels), outputs, stride, self.dropout))
                inputs = outputs
            layers[f"layer{stage}"] = nn.Sequential(*made)
        layers |= {"bn1": nn.BatchNorm2d(inputs), "relu1": nn.ReLU()}
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(inputs, spec.classes)
        model = nn.Sequential(layers)
        start_convolutions(model)
        return model

    def sized_as(self, model: nn.Module) -> Self:
        """With the channels that the blocks of `model` have inside."""
        firsts = [block.conv1 for block in model.modules() if isinstance(block, WideBlock)]
        widths = widths_of(firsts)
        if widths == self.channels or len(widths) != len(self.channels):
            return self
        return self.model_copy(update={"widths": widths})


class WideBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, beside a shortcut.

    Where the shortcut is a convolution it reads what the first ReLU gives, as the authors' code has
    it; else it is the input itself.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(inner, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        active = self.relu1(self.bn1(x))
        branch = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        summed: Tensor = branch + (x if self.shortcut is None else self.shortcut(active))
        return summed
