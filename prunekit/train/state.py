"""The weights that a run stands at: taken out for a checkpoint, or put back by what goes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunekit.foundation.modules import buffers, tensors
from prunekit.pruning.context import Surroundings
from prunekit.recipe.schema import EMAConfig
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
        self.ema = EMA(self.around, config) if config else None

    def weights(self) -> dict[str, Tensor]:
        """Dense W and buffers by plain name."""
        return {
            name: self.around.dense(name) if name in self.around.params else tensor
            for name, tensor in tensors(self.run.model).items()
        }

    def averages(self) -> dict[str, Tensor] | None:
        """The averages by name, where there are any."""
        return None if self.ema is None else self.ema.state_dict()

    def averaged(self) -> int:
        """The steps that the average has taken in since it began."""
        return 0 if self.ema is None else self.ema.updates

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from other weights; an average begins anew at them."""
        self._write(weights)
        if self.ema is not None:
            self.ema.restart()

    def take_corrections(self) -> None:
        """Of tensors whose kept weights an update has just corrected the average begins anew."""
        if self.ema is not None:
            updated = self.engine.updated()
            corrected = {n for a in updated for n, one in a.corrected.items() if one.entries}
            self.ema.restart_some(corrected)

    def put_average(self) -> None:
        """Go on from the average, where there is one."""
        self._write(self.averages() or {})

    def _write(self, values: Mapping[str, Tensor]) -> None:
        """Dense W and buffers by plain name; masks stay in force."""
        own = tensors(self.run.model)
        for name, value in values.items():
            if name in self.around.params:
                self.around.set_dense(name, value.to(own[name].device))
            else:
                own[name].copy_(value)

    def keep_if_best(self, top1: float) -> None:
        """Keep a copy if no evaluation before was as good."""
        if self.best is None or top1 > self.best["top1"]:
            averages = self.averages()
            self.best = {
                "top1": top1,
                "weights": _copied(self.weights()),
                "ema": None if averages is None else _copied(averages),
                "ema_updates": self.averaged(),
            }

    def restore_best(self) -> None:
        """Go on from the best, where one was kept."""
        if self.best is not None:
            self.put(self.best["weights"])
            if self.ema is not None:
                self.ema.load_state_dict(self.best["ema"], self.best.get("ema_updates", 0))
            self.best = None


def average_notes(config: EMAConfig | None) -> tuple[str, ...]:
    """What a run warns of: an average by the rule of before, as old runs and sweeps go on with."""
    without = {
        "warmup": "it begins at the start weights and forgets them slowly",
        "buffers": "the statistics of BatchNorm stay those of the last step",
    }
    off = [key for key in without if config is not None and not getattr(config, key)]
    if not off:
        return ()
    keys = ", ".join(f"ema.{key}: false" for key in off)
    told = ", and ".join(without[key] for key in off)
    return (f"the average follows the rule of earlier versions ({keys}): {told}",)


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in values.items()}


class EMA:
    """A moving average of the dense weights W and the buffers of floats, evaluated under the masks.

    Step n of it, n = 0, 1, ..: average <- d * average + (1 - d) * W, with d = decay, or with
    `warmup` d = min(decay, (1 + n) / (10 + n)) (TensorFlow's `ExponentialMovingAverage` with
    `num_updates`). So it is mostly of the last tenth of the steps until `decay` keeps fewer, and
    the start weights, random as they may be, are forgotten: plain, they keep decay^n.
    Other buffers stay those of the last step: see `has_mean`.

    Args:
        around: the model with its dense weights.
        config: the settings of the recipe.
    """

    def __init__(self, around: Surroundings, config: EMAConfig) -> None:
        self.around, self.config, self.updates = around, config, 0
        self.buffers = set[str]()
        if config.buffers:
            self.buffers = {name for name, one in buffers(around.model).items() if has_mean(one)}
        self.average = {name: value.clone() for name, value in self._live().items()}
        around.mask_set.when_folded.append(self._fold)

    def _fold(self, factors: Mapping[str, Tensor]) -> None:
        """What the dense weights were multiplied by for good, their average is too."""
        for name, factor in factors.items():
            self.average[name].mul_(factor)

    def restart(self) -> None:
        """Begin at the weights as they are now."""
        self.load_state_dict(self._live(), 0)

    def restart_some(self, names: Iterable[str]) -> None:
        """Begin anew at some weights as they are now, and go on with the others."""
        for name in names:
            self.average[name].copy_(self.around.dense(name))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the dense weights and buffers of this step."""
        n, keep = self.updates, self.config.decay
        if self.config.warmup:
            keep = min(keep, (1 + n) / (10 + n))
        live = self._live()
        # all of them in a few launches on a GPU, where one each would cost more than the sums
        torch._foreach_lerp_([self.average[name] for name in live], [*live.values()], 1 - keep)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds average * M and the average's buffers inside, and its own after.

        In the memory that it has: a CUDA graph reads its weights from where they were recorded.
        """
        params, mask_set = self.around.params, self.around.mask_set
        # through .data, so that it counts as no write of others
        resting = {name: param.data.clone() for name, param in params.items()}
        own = {name: buffer.clone() for name, buffer in self._own_buffers().items()}
        try:
            for name, param in params.items():
                average = self.average[name]
                if name in mask_set.params:
                    torch.mul(average, mask_set.factor(name), out=param.data)
                else:
                    param.data.copy_(average)
            self._put_buffers(self.average)
            yield
        finally:
            for name, param in params.items():
                param.data.copy_(resting[name])
            self._put_buffers(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Take back the averages, after so many steps; of the buffers that it holds."""
        self.updates, self.buffers = updates, state.keys() - self.around.params.keys()
        self.average = {
            name: state[name].to(value.device, copy=True) for name, value in self._live().items()
        }

    def _live(self) -> dict[str, Tensor]:
        """What is averaged, as it is now."""
        return {n: self.around.dense(n) for n in self.around.params} | self._own_buffers()

    def _own_buffers(self) -> dict[str, Tensor]:
        """Looked up each time: a module may put another tensor in the place of a buffer."""
        return {n: b for n, b in self.around.model.named_buffers() if n in self.buffers}

    def _put_buffers(self, values: Mapping[str, Tensor]) -> None:
        for name, buffer in self._own_buffers().items():
            buffer.copy_(values[name])


UNIT = 1e-5
"""How far the length of a vector of floats may be from 1, normalised as it is."""


def has_mean(buffer: Tensor) -> bool:
    """Whether the mean of what a buffer held over time can stand for it.

    Not of whole numbers, as a count of batches; not of a mask of -inf; and not of a vector of unit
    length, as those of `spectral_norm`: they turn, so the mean is short, and weights divided by
    what it gives grow many times.
    """
    if not buffer.is_floating_point() or not bool(buffer.isfinite().all()):
        return False
    return buffer.numel() < 2 or abs(float(torch.linalg.vector_norm(buffer)) - 1) > UNIT
