"""An exponential moving average of the dense weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from prunekit.pruning.pruner import Pruner


class EMA:
    """w_ema <- decay * w_ema + (1 - decay) * W after each step; evaluated under the masks."""

    def __init__(self, pruner: Pruner, decay: float) -> None:
        self.decay = decay
        self.average = {name: pruner.dense(name).clone() for name in pruner.params}

    @torch.no_grad()
    def update(self, pruner: Pruner) -> None:
        """Take in the dense weights of this step."""
        for name, average in self.average.items():
            average.lerp_(pruner.dense(name), 1 - self.decay)

    @contextmanager
    def applied(self, pruner: Pruner) -> Iterator[None]:
        """The model holds average * M inside, and W * M again after."""
        resting = {name: param.data for name, param in pruner.params.items()}
        masks = pruner.masks()
        try:
            for name, param in pruner.params.items():
                average = self.average[name]
                param.data = average * masks[name] if name in masks else average
            yield
        finally:
            for name, param in pruner.params.items():
                param.data = resting[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back the averages."""
        for name, average in self.average.items():
            average.copy_(state[name])
