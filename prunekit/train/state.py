"""The weights that a run stands at: taken out for a checkpoint, or put back by what goes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunekit.foundation.modules import tensors
from prunekit.pruning.context import Surroundings
from prunekit.train.build import Run


class ModelState:
    """Dense weights, buffers and their average, and those of the best evaluation so far."""

    def __init__(self, run: Run) -> None:
        self.run, self.engine, self.around = run, run.engine, run.engine.around
        self.ema: EMA | None = None
        self.best: dict[str, Any] | None = None

    def begin_average(self) -> None:
        """An average from here on, where the recipe asks for one."""
        config = self.run.recipe.ema
        self.ema = EMA(self.around, config.decay) if config else None

    def weights(self) -> dict[str, Tensor]:
        """Dense W and buffers by plain name."""
        return {
            name: self.around.dense(name) if name in self.around.params else tensor
            for name, tensor in tensors(self.run.model).items()
        }

    def averages(self) -> dict[str, Tensor] | None:
        """The averages by name, where there are any."""
        return None if self.ema is None else self.ema.state_dict()

    def put(
        self, weights: Mapping[str, Tensor], averages: Mapping[str, Tensor] | None = None
    ) -> None:
        """Go on from other weights; an average goes on from its own, or begins at them."""
        own = tensors(self.run.model)
        for name, value in weights.items():
            if name in self.around.params:
                self.around.set_dense(name, value.to(own[name].device))
            else:
                own[name].copy_(value)
        if self.ema is not None:
            dense = {name: self.around.dense(name) for name in self.around.params}
            self.ema.load_state_dict(averages or dense)

    def put_average(self) -> None:
        """Go on from the average, where there is one."""
        for name, average in (self.averages() or {}).items():
            self.around.set_dense(name, average)

    def keep_if_best(self, top1: float) -> None:
        """Keep a copy if no evaluation before was as good."""
        if self.best is None or top1 > self.best["top1"]:
            averages = self.averages()
            self.best = {
                "top1": top1,
                "weights": _copied(self.weights()),
                "ema": None if averages is None else _copied(averages),
            }

    def restore_best(self) -> None:
        """Go on from the best, where one was kept."""
        if self.best is not None:
            self.put(self.best["weights"], self.best["ema"])
            self.best = None


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in values.items()}


class EMA:
    """w_ema <- decay * w_ema + (1 - decay) * W after each step; evaluated under the masks."""

    def __init__(self, around: Surroundings, decay: float) -> None:
        self.around, self.decay = around, decay
        self.average = {name: around.dense(name).clone() for name in around.params}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the dense weights of this step."""
        for name, average in self.average.items():
            average.lerp_(self.around.dense(name), 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds average * M inside, and W * M again after."""
        params, masks = self.around.params, self.around.mask_set.masks()
        resting = {name: param.data for name, param in params.items()}
        try:
            for name, param in params.items():
                average = self.average[name]
                param.data = average * masks[name] if name in masks else average
            yield
        finally:
            for name, param in params.items():
                param.data = resting[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back the averages."""
        for name, average in self.average.items():
            average.copy_(state[name])
