"""VGG for small images."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, Self

from pydantic import ValidationInfo, field_validator
from torch import nn

from prunekit.models.layers import Width, check_side, start_convolutions, widths_of
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> convolutions of each stage; its name counts the three linear layers of the original."""
CHANNELS = (64, 128, 256, 512, 512)


class VGGConfig(ModelConfig):
    """VGG with BatchNorm in its form for CIFAR: 3x3 convolutions and one linear layer.

    Max pooling by 2 between the five stages and the mean over positions behind the last, so that
    32x32 pixels and larger images give as many parameters. Convolutions have no bias, which the
    BatchNorm would take out again (as in network slimming, arXiv:1708.06519).
    """

    name: Literal["vgg"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    depth: Literal[11, 13, 16, 19] = 16
    """The name of the configuration: 8, 10, 13 or 16 convolutions."""
    widths: tuple[Width, ...] | None = None
    """Output channels of each convolution; null = 64, 128, 256, 512 and 512 by stage."""

    sized: ClassVar[bool] = True
    paper = "arXiv:1409.1556"

    @field_validator("widths")
    @classmethod
    def _one_width_each(
        cls, widths: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        depth = info.data.get("depth")
        if widths is not None and depth is not None and len(widths) != sum(STAGES[depth]):
            raise ValueError(
                f"{len(widths)} widths for the {sum(STAGES[depth])} convolutions of depth {depth}: "
                "give one each, or null"
            )
        return widths

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of each convolution."""
        stages = zip(CHANNELS, STAGES[self.depth], strict=True)
        return self.widths or tuple(c for c, count in stages for _ in range(count))

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `conv1`, `bn1`, ..., `fc`; see `start_convolutions` for the kernels.

        Raises:
            RecipeError: an image smaller than 16x16.
        """
        check_side(self.name, spec, least=16)
        widths = (spec.channels, *self.channels)
        *ends, _ = accumulate(STAGES[self.depth])  # the last stage ends in the mean
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers[f"bn{number}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{number}"] = nn.ReLU()
            if number in ends:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(widths[-1], spec.classes)
        model = nn.Sequential(layers)
        start_convolutions(model)
        return model

    def sized_as(self, model: nn.Module) -> Self:
        """With the channels that `model` has."""
        widths = widths_of(model.modules())[:-1]
        if widths == self.channels or len(widths) != len(self.channels):
            return self
        return self.model_copy(update={"widths": widths})
