"""What a model offers: a config that builds it for a data set, and slots for compressors."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

from torch import nn

from prunekit.compressors.base import DataCompressor
from prunekit.foundation.values import ComponentConfig, RunPath


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What a model takes from its data."""

    channels: int
    height: int
    width: int
    classes: int


class ModelConfig(ComponentConfig, abc.ABC):
    """The settings of a model."""

    paper: ClassVar[str] = ""
    init: RunPath | None = None
    """Start weights: a run directory, a .safetensors file, or `pretrained` for a stock model."""

    @abc.abstractmethod
    def build(self, spec: DataSpec) -> nn.Module:
        """A freshly initialised model for this data; reads the global random state.

        Raises:
            RecipeError: the data does not fit, such as a patch size that does not divide.
        """

    def sized_as(self, model: nn.Module) -> Self:
        """The config that builds `model`: one of its own models that units were removed from.

        Itself, unless the architecture has its widths in its config.
        """
        return self


@runtime_checkable
class Slotted(Protocol):
    """A model with places for compressors."""

    @property
    def slots(self) -> Sequence[str]:
        """The names of the places: `tokens`, `blocks.0`, ..."""

    def attach(self, slot: str, compressor: DataCompressor) -> None:
        """Put a compressor into a place.

        Raises:
            RecipeError: no such slot, a taken slot, or proportional attention that the model
                cannot give.
        """
