"""A multi-layer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self

from torch import nn

from prunekit.models.layers import Width, widths_of
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig


class MLPConfig(ModelConfig):
    """Fully connected layers with ReLU between them, on the flattened image.

    The default is `lenet_300_100`.
    """

    sized: ClassVar[bool] = True
    name: Literal["mlp"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    hidden: tuple[Width, ...] = (300, 100)
    """Units of each hidden layer; none = a linear classifier."""

    def build(self, spec: DataSpec) -> nn.Module:
        """See `perceptron`."""
        return perceptron(spec, self.hidden)

    def sized_as(self, model: nn.Module) -> Self:
        """With the hidden units that `model` has."""
        return self.model_copy(update={"hidden": widths_of(model.modules())[:-1]})


def perceptron(spec: DataSpec, hidden: Sequence[int]) -> nn.Sequential:
    """Layers `fc1`, `fc2`, ... with torch's default initialisation and ReLU between them.

    Args:
        spec: the data.
        hidden: units of each hidden layer.
    """
    widths = (spec.channels * spec.height * spec.width, *hidden, spec.classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{number}"] = nn.ReLU()
    layers.popitem()  # the logits have none
    return nn.Sequential(layers)
