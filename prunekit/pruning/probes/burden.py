"""How hard weights work while they are pruned: gradients and weights of the entries that stay."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.devices import as_float64
from prunekit.foundation.parameters import Scope
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.values import OldDefault, RunPath
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.strategies.base import Context
from prunekit.registry.configs import ProbeConfig
from prunekit.runs.directory import open_run

QUANTITIES = ("gradient", "weight")
STATISTICS = ("l2", "mean_abs", "rms")
POOLED = "pooled"


class Burden(Probe):
    """L2 norm, mean absolute value and RMS of gradients and weights, by layer and pooled.

    Over the active entries (kept now), over all dense entries, and over a support: the entries that
    are kept in the final masks of another run. Keys are `<quantity>_<statistic>/<entries>/<layer>`;
    docs/burden.md has the definitions. Of no entries, each is 0.
    """

    class Config(ProbeConfig):
        """Settings of the burden indicators."""

        name: Literal["burden"]
        every: Annotated[Duration, OldDefault(2, "50st")] = duration("1%")
        """Steps from one record to the next, `%` of the run and a step at least; its first and last
        step are recorded too."""
        means: bool = False
        """Also record the mean over the steps since the last record (`_window`) and over all steps
        so far (`_running`). It looks at every step."""
        per_layer: bool = True
        """Whether to record each layer, or only all of them pooled."""
        scope: Scope = Scope()
        """Which parameters to look at; empty = all prunable weights, pruned or not, so that any two
        runs of a model compare."""
        support: RunPath | None = None
        """A run whose final masks to follow from the first step on: `runs/<recipe>/latest` or a run
        directory. The run that this one repeats tells compensation from selection."""

    config: Burden.Config
    paper = "arXiv:2407.16716 section 4, Fig. 2"

    def __init__(self, config: Burden.Config) -> None:
        super().__init__(config)
        self._means, self._sums = Means(), Sums()

    def prepare(self, model: nn.Module) -> None:
        """Resolve the scope, and read the support."""
        self._names = self.config.scope.select(model)
        self._support = self._read_support(model)
        places = (*self._names, POOLED) if self.config.per_layer else (POOLED,)
        entries = ("active", "dense", *(("support",) if self._support else ()))
        kinds = ("", "_window", "_running") if self.config.means else ("",)
        self._keys = [
            f"{quantity}_{statistic}{kind}/{which}/{place}"
            for kind, quantity, which, statistic, place in product(
                kinds, QUANTITIES, entries, STATISTICS, places
            )
        ]

    def _read_support(self, model: nn.Module) -> dict[str, Tensor]:
        if self.config.support is None:
            return {}
        masks = open_run(self.config.support).masks()
        for name in self._names:
            if name not in masks or masks[name].shape != model.get_parameter(name).shape:
                raise RecipeError(
                    f"support: {self.config.support} has no mask of the shape of {name}: give the "
                    "probe a scope of what that run masks, and both runs the same model"
                )
        return {name: masks[name] for name in self._names}

    def due(self, clock: Clock) -> bool:
        """At the steps to record; at every step where means are asked for."""
        return self.config.means or self._records(clock)

    def _records(self, clock: Clock) -> bool:
        done = clock.step + 1  # with this step, under which it is logged
        interval = max(1, self.config.every.steps(clock.total_steps, clock.steps_per_epoch))
        return done % interval == 0 or done in (1, clock.total_steps)

    @torch.no_grad()
    def observe(self, ctx: Context) -> Mapping[str, float]:
        """Gradients in units of the loss per weight; the host waits for the device once."""
        now = self._indicators(ctx)
        if self.config.means:
            self._means.add(now)
        if not self._records(ctx.clock):
            return {}
        found = torch.stack([now, *(self._means.record() if self.config.means else ())])
        return dict(zip(self._keys, found.flatten().tolist(), strict=True))

    def _indicators(self, ctx: Context) -> Tensor:
        """[quantity, entries, statistic, place], float64, on the device of the weights."""
        weights = {name: ctx.weights[name] for name in self._names}
        grads = {name: ctx.grads[name] for name in self._names}
        entries: list[Mapping[str, Tensor]] = [ctx.masks, {}]
        if self._support:
            self._support = {n: m.to(weights[n].device) for n, m in self._support.items()}
            entries.append(self._support)
        found = [self._sums.statistics(x, masks) for x in (grads, weights) for masks in entries]
        return torch.stack(found)[..., slice(None) if self.config.per_layer else slice(-1, None)]

    def state_dict(self) -> dict[str, Any]:
        """The sums of the means."""
        return self._means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding.

        Raises:
            ValueError: the sums are of other tensors or another support.
        """
        wanted = len(self._keys) // (3 if self.config.means else 1)
        for sums in (state["window"], state["total"]):
            if sums.numel() not in (0, wanted):
                raise ValueError(f"it has {sums.numel()} sums, here are {wanted}")
        self._means.load_state_dict(state)


class Sums:
    """Sums |x| and x^2; its working memory is used again, as fresh pages cost more than the sums.

    Two times the largest tensor is held. PyTorch sums float32 in a tree: relative errors are near
    1e-7 however many entries there are.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(2, 0)
        self._rooms: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def statistics(self, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """L2 norm, mean |x| and RMS of each tensor, and at last of all of them pooled.

        Args:
            tensors: by name, on one device.
            masks: bool masks by name; of a tensor without one, all entries count.

        Returns:
            [statistic, tensor], float64; 0 where no entry counts.
        """
        found = [self._sums(x, masks.get(name)) for name, x in tensors.items()]
        sums = torch.stack([as_float64(torch.stack(kind)) for kind in zip(*found, strict=True)])
        absolute, squares, counts = torch.cat([sums, sums.sum(1, keepdim=True)], dim=1)
        counts = counts.clamp(min=1)
        return torch.stack([squares.sqrt(), absolute / counts, (squares / counts).sqrt()])

    def _sums(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of |x|, sum of x^2 and number of entries: scalars on the device."""
        values, factor = self._room(x)
        if mask is None:
            torch.abs(x, out=values)
            count = values.new_full((), x.numel())
        else:
            # to multiply by bool takes several times as long, and so does bool -> float
            factor.copy_(mask.view(torch.uint8))
            torch.mul(x, factor, out=values).abs_()
            count = factor.sum()
        return values.sum(), values.square_().sum(), count

    def _room(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for two tensors of x's shape, float32 or more."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        memory = self._memory
        if memory.dtype != dtype or memory.device != x.device or memory.shape[1] < x.numel():
            self._memory = memory = torch.empty(2, x.numel(), dtype=dtype, device=x.device)
            self._rooms.clear()
        if x.shape not in self._rooms:
            values, factor = memory[:, : x.numel()].view(2, *x.shape)
            self._rooms[x.shape] = values, factor
        return self._rooms[x.shape]


class Means:
    """Means of a vector over the steps since the last record, and over all steps.

    The sum over all steps is that of the closed windows: so the running mean is the mean of the
    window means, weighted by their lengths.
    """

    def __init__(self) -> None:
        self._window, self._steps_in_window = Tensor(), 0
        self._total, self._steps = Tensor(), 0

    def add(self, values: Tensor) -> None:
        """One more step: its values, float64, on any device."""
        self._window = _sum(self._window, values)
        self._steps_in_window += 1

    def record(self) -> tuple[Tensor, Tensor]:
        """Close the window: its mean, and the mean over all steps. Needs a step since the last."""
        window, self._total = self._window, _sum(self._total, self._window)
        steps, self._steps = self._steps_in_window, self._steps + self._steps_in_window
        self._window, self._steps_in_window = Tensor(), 0
        return window / steps, self._total / self._steps

    def state_dict(self) -> dict[str, Any]:
        """The sums, on the CPU."""
        return {
            "window": self._window.cpu(),
            "steps_in_window": self._steps_in_window,
            "total": self._total.cpu(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding."""
        self._window, self._steps_in_window = state["window"], state["steps_in_window"]
        self._total, self._steps = state["total"], state["steps"]


def _sum(before: Tensor, values: Tensor) -> Tensor:
    """`before`, which is empty before the first, plus `values`, on their device."""
    return before.to(values.device) + values if before.numel() else values
