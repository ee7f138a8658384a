"""Residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from prunekit.models.layers import Width, start_convolutions, widths_of
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig


class ResNetConfig(ModelConfig):
    """The residual network of He et al. for CIFAR, in their section 4.2.

    A 3x3 convolution, then three stages of blocks of two 3x3 convolutions, the second and third
    stage at half the side of the one before, and one linear layer behind the mean over positions.
    Shortcuts have no parameters (their option A). Channels inside a block can be removed; what
    blocks hand on is fixed by `stages`.
    """

    name: Literal["resnet"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    depth: int = Field(default=20, ge=8, le=10_000)
    """6n + 2 for n blocks a stage: 20, 32, 44, 56, 110."""
    stages: tuple[Width, Width, Width] = (16, 32, 64)
    """Channels that the blocks of each stage hand on; none less than the one before."""
    widths: tuple[Width, ...] | None = None
    """Output channels of the first convolution of each block; null = those of its stage."""

    sized: ClassVar[bool] = True
    paper = "arXiv:1512.03385"

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if (depth - 2) % 6:
            below = depth - (depth - 2) % 6
            raise ValueError(f"{depth} is not 6n + 2: use {below} or {below + 6}")
        return depth

    @field_validator("stages")
    @classmethod
    def _shortcuts_pad(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        if any(after < before for before, after in pairwise(stages)):
            raise ValueError(
                "a stage has fewer channels than the one before, but shortcuts only add some: give "
                "three that do not fall"
            )
        return stages

    @field_validator("widths")
    @classmethod
    def _one_width_each(
        cls, widths: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        depth = info.data.get("depth")
        if widths is not None and depth is not None and len(widths) != (depth - 2) // 2:
            raise ValueError(
                f"{len(widths)} widths for the {(depth - 2) // 2} blocks of depth {depth}: give "
                "one each, or null"
            )
        return widths

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of the first convolution of each block."""
        return tuple(self._channels())

    def _channels(self) -> Iterator[int]:
        """One after the other: a file may say any depth."""
        blocks = (self.depth - 2) // 6
        yield from self.widths or (c for c in self.stages for _ in range(blocks))

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `conv1`, `bn1`, `layer1`, `layer2`, `layer3`, `fc`.

        See `start_convolutions` for the kernels.
        """
        blocks, channels = (self.depth - 2) // 6, self._channels()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(spec.channels, self.stages[0], 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(self.stages[0]),
            relu1=nn.ReLU(),
        )
        inputs = self.stages[0]
        for stage, outputs in enumerate(self.stages, start=1):
            made = []
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                made.append(BasicBlock(inputs, next(channels), outputs, stride))
                inputs = outputs
            layers[f"layer{stage}"] = nn.Sequential(*made)
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(inputs, spec.classes)
        model = nn.Sequential(layers)
        start_convolutions(model)
        return model

    def sized_as(self, model: nn.Module) -> Self:
        """With the channels that the blocks of `model` have inside."""
        firsts = [block.conv1 for block in model.modules() if isinstance(block, BasicBlock)]
        widths = widths_of(firsts)
        if widths == self.channels or len(widths) != len(self.channels):
            return self
        return self.model_copy(update={"widths": widths})


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, ReLU behind the first and the sum."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else PadShortcut(outputs - inputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        summed: Tensor = self.relu2(branch + self.shortcut(x))
        return summed


class PadShortcut(nn.Module):
    """Every `stride`-th position, and `added` channels of zeros, half of them in front."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + added, ceil(H / stride), ceil(W / stride)]."""
        front = self.added // 2
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, front, self.added - front))
