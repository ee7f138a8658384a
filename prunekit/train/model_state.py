"""The weights that a run stands at: taken out for a checkpoint, or put back by what goes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prunekit.build import Run
from prunekit.foundation.modules import tensors
from prunekit.train.ema import EMA


class ModelState:
    """Dense weights, buffers and their average, and those of the best evaluation so far."""

    def __init__(self, run: Run) -> None:
        self.run, self.pruner = run, run.pruner
        self.ema: EMA | None = None
        self.best: dict[str, Any] | None = None

    def begin_average(self) -> None:
        """An average from here on, where the recipe asks for one."""
        config = self.run.recipe.ema
        self.ema = EMA(self.pruner, config.decay) if config else None

    def weights(self) -> dict[str, Tensor]:
        """Dense W and buffers by plain name."""
        return {
            name: self.pruner.dense(name) if name in self.pruner.params else tensor
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
            if name in self.pruner.params:
                self.pruner.set_dense(name, value.to(own[name].device))
            else:
                own[name].copy_(value)
        if self.ema is not None:
            dense = {name: self.pruner.dense(name) for name in self.pruner.params}
            self.ema.load_state_dict(averages or dense)

    def put_average(self) -> None:
        """Go on from the average, where there is one."""
        for name, average in (self.averages() or {}).items():
            self.pruner.set_dense(name, average)

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
