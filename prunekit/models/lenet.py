"""The two LeNets that pruning papers use on MNIST."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, Self

from torch import nn

from prunekit.models.layers import Width, check_side, start_convolutions, widths_of
from prunekit.models.mlp import perceptron
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig


class LeNet300100Config(ModelConfig):
    """Two hidden layers of 300 and 100 units with ReLU (LeCun et al. 1998).

    266,200 weights on 28x28 pixels and ten classes. The `mlp` of two hidden layers under the name
    it has in papers: the same layers and, from the same seed, the same start weights.
    """

    name: Literal["lenet_300_100"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    widths: tuple[Width, Width] = (300, 100)
    """Units of the two hidden layers."""

    paper = "doi:10.1109/5.726791"

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `fc1`, `fc2`, `fc3`; see `perceptron`."""
        return perceptron(spec, self.widths)

    def sized_as(self, model: nn.Module) -> Self:
        """With the hidden units that `model` has."""
        widths = widths_of(model.modules())
        return self.model_copy(update={"widths": widths[:-1]}) if len(widths) == 3 else self


class LeNet5Config(ModelConfig):
    """Caffe's LeNet-5 (LeCun et al. 1998): two convolutions, two linear layers.

    20 filters of 5x5, max pooling by 2, 50 filters of 5x5, max pooling by 2, 500 units. 431,080
    parameters on 28x28 pixels and ten classes. ReLU stands behind both convolutions and the 500
    units, as in NNrelief (arXiv:2109.10795); Caffe's own definition has it behind the 500 units
    only.
    """

    name: Literal["lenet5"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    widths: tuple[Width, Width, Width] = (20, 50, 500)
    """Output channels of the two convolutions, and units of the hidden layer."""

    paper = "doi:10.1109/5.726791"

    def build(self, spec: DataSpec) -> nn.Module:
        """Layers `conv1`, `conv2`, `fc1`, `fc2`; see `start_convolutions` for the kernels.

        Raises:
            RecipeError: an image smaller than 16x16.
        """
        check_side(self.name, spec, least=16)
        first, second, hidden = self.widths
        height, width = (((side - 4) // 2 - 4) // 2 for side in (spec.height, spec.width))
        model = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(spec.channels, first, 5),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(first, second, 5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * height * width, hidden),
                relu3=nn.ReLU(),
                fc2=nn.Linear(hidden, spec.classes),
            )
        )
        start_convolutions(model)
        return model

    def sized_as(self, model: nn.Module) -> Self:
        """With the channels and hidden units that `model` has."""
        widths = widths_of(model.modules())
        return self.model_copy(update={"widths": widths[:-1]}) if len(widths) == 4 else self
