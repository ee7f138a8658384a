"""How hard weights work while they are pruned: gradients and weights of the entries that stay."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Scope
from prunekit.foundation.timeline import Clock, Duration, duration
from prunekit.foundation.values import RunPath
from prunekit.probes.base import Probe
from prunekit.probes.means import Means
from prunekit.probes.sums import Sums
from prunekit.registry.configs import ProbeConfig
from prunekit.runs.directory import open_run
from prunekit.strategies.base import Context

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
        every: Duration = duration("50st")
        """Steps from one record to the next, `%` of the run; its first and last step are recorded
        too."""
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
        """Go on adding."""
        self._means.load_state_dict(state)
