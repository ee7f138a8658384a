"""Random values that stand in for parameters while a model is looked at."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunekit.pruning.flow.numbering import Numbers


@dataclass
class Values:
    """Values of parameters by their names, the same at each use; pruned entries are 0.

    So what is found depends on what the model computes, and not on what it has learned or lost.
    """

    numbers: Numbers
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameter -> bool, True = kept."""

    def __post_init__(self) -> None:
        self._matrices = frozenset(self.numbers.matrices)

    def of(self, name: str) -> Tensor:
        """Values of a parameter on its device: of a matrix such that outputs are as large as
        inputs, of a vector in [0.5, 1.5]."""
        parameter = self.numbers.holders.first(name).parameter
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.empty(parameter.shape)
        if name in self._matrices:
            rows = max(1, len(self.numbers.row_numbers(name)))
            bound = (3 * rows / max(1, parameter.numel())) ** 0.5
            values.uniform_(-bound, bound, generator=generator)
        else:
            values.uniform_(0.5, 1.5, generator=generator)
        if name in self.masks:
            values.mul_(self.masks[name])
        return values.to(parameter.device, parameter.dtype)
