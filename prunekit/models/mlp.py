"""A multi-layer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import nn

from prunekit.models.base import DataSpec, ModelConfig
from prunekit.models.init import OwnInit


class MLPConfig(ModelConfig):
    """Fully connected layers with ReLU between them, on the flattened image.

    The default is LeNet-300-100 (doi:10.1109/5.726791): 266,200 weights on 28x28 pixels and ten
    classes.
    """

    name: Literal["mlp"]
    init: OwnInit = None
    """Start weights: a run directory or a .safetensors file."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (300, 100)
    """Units of each hidden layer; none = a linear classifier."""

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `fc1`, `fc2`, ... with torch's default initialisation."""
        widths = (spec.channels * spec.height * spec.width, *self.hidden, spec.classes)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layers[f"fc{number}"] = nn.Linear(inputs, outputs)
            layers[f"relu{number}"] = nn.ReLU()
        layers.popitem()  # the logits have none
        return nn.Sequential(layers)

    def sized_as(self, model: nn.Module) -> Self:
        """With the hidden units that `model` has."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        return self.model_copy(update={"hidden": tuple(len(fc.weight) for fc in layers[:-1])})
