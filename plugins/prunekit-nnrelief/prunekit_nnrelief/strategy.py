"""Keep the connections that carry what their units receive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, fx, nn

from prunekit import (
    Clock,
    Context,
    PluginError,
    PruningStrategy,
    RecipeError,
    StrategyConfig,
    Update,
)
from prunekit_nnrelief.activity import check_dimensions, mean_activity
from prunekit_nnrelief.graph import Graph, Layer, trace
from prunekit_nnrelief.masks import all_kept, masks_of, summary
from prunekit_nnrelief.rule import keep_strongest
from prunekit_nnrelief.scores import Reduction, channel_norms, connection_mass
from prunekit_nnrelief.sweep import live_units

Rows = dict[fx.Node, Tensor]
"""Layer -> bool, a row for each of its units."""


class NNrelief(PruningStrategy):
    """At the end of each phase prune what adds least to the units of the network.

    The mass of a connection is its mean absolute contribution to its unit's pre-activation over
    calibration samples: |w_ij| mean|x_j|, for a convolution the norm of conv2d(mean|X_c|, |K_kc|);
    a bias competes as one more. Each unit keeps the fewest connections that make up `alpha` of its
    mass, so that its pre-activation moves by (1 - alpha) of it at most. Units that are 0 on all
    samples, branches that are less than 1 - alpha of a residual sum, and what leads nowhere any
    more go whole, with their BatchNorm. There is no target: the sparsity emerges. Masks only
    shrink. Phases train again, from the weights that are left or (LeNets) from `start: anchor`.

    Differs from the public code: it prunes one connection more in units that need all of theirs,
    and all that tie with the last; it chooses weights by their test accuracy; it misses the first
    convolution of a ResNet. An identity shortcut has no parameter that a mask could close: it stays
    open, and only the branch of a residual block can go.
    """

    class Config(StrategyConfig):
        """Settings of NNrelief."""

        name: Literal["nnrelief"]
        alpha_conv: float = Field(default=0.95, gt=0, le=1)
        """Part of a filter's mass that is kept, and of a residual sum; 1 prunes zeros only."""
        alpha_fc: float = Field(default=0.95, gt=0, le=1)
        """Part of the mass of a linear layer's unit that is kept."""
        samples: int = Field(default=1000, ge=1)
        """Training samples that the mass is a mean over; labels are not used."""
        reduction: Reduction = "fro"
        """How a convolution's maps become numbers: Frobenius norm, or sum (the LeNets' code)."""
        propagate: Literal["unpruned", "pruned"] = "unpruned"
        """What a layer is fed for its mass. `unpruned`: what it got before this update, linear
        layers with the convolutions pruned (the public code). `pruned`: with all before pruned."""

    config: NNrelief.Config
    paper = "arXiv:2109.10795"
    modes = ("hard",)

    def __init__(self, config: NNrelief.Config) -> None:
        super().__init__(config)
        self._metrics: dict[str, float] = {}

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """Refuse what is no weight of a layer.

        Raises:
            RecipeError: names it.
        """
        weights = {layer.weight for layer in trace(model).layers.values()}
        if wrong := next((name for name in names if name not in weights), None):
            raise RecipeError(
                f"strategy nnrelief: scope: {wrong} is no weight of a Linear or Conv2d that the "
                "model uses: name those; their biases and BatchNorms go with them"
            )

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """With the weights their biases, and the BatchNorms behind them."""
        layers = _in_scope(trace(model), names)
        along = [name for layer in layers for name in layer.parameters if name not in names]
        return [*names, *along]

    def due(self, clock: Clock) -> bool:
        """At the end of each phase of the window; at its first step only to see that it can."""
        during = self.config.during
        ends = clock.phase_step == clock.phase_steps and (not during or clock.phase in during)
        return ends or clock.active_step == 0

    def update(self, ctx: Context) -> Update:
        """Prune by mass, then sweep."""
        ctx.model.eval()
        graph = trace(ctx.model)
        layers = _in_scope(graph, ctx.weights)
        if ctx.clock.active_step == 0:
            self._look(ctx, graph, layers)
            return Update()
        kept = {node: all_kept(layer) for node, layer in graph.layers.items()}
        closed: Rows = {}
        for stage in self._stages(layers):
            self._prune(ctx, graph, stage, kept, closed)
        live = live_units(graph, {node: rows[:, :-1] for node, rows in kept.items()}, closed)
        masks: dict[str, Tensor] = {}
        for layer in layers:
            masks |= masks_of(layer, kept[layer.node], live[layer.node])
        self._metrics = summary(layers, masks)
        return Update(masks)

    def _look(self, ctx: Context, graph: Graph, layers: Sequence[Layer]) -> None:
        """Too few samples, and what their shapes do not fit, are told before the training."""
        batch = islice(ctx.calibration(self.config.samples), 1)
        activity = mean_activity(graph.traced, batch, {}, _places(layers))
        for layer in layers:
            check_dimensions(layer, activity)

    def _stages(self, layers: Sequence[Layer]) -> Iterator[Sequence[Layer]]:
        """The layers that one pass over the samples is enough for, in the order of execution."""
        if self.config.propagate == "pruned":
            yield from ([layer] for layer in layers)
            return
        for kind in (nn.Conv2d, nn.Linear):
            if stage := [layer for layer in layers if isinstance(layer.module, kind)]:
                yield stage

    def _prune(
        self, ctx: Context, graph: Graph, stage: Sequence[Layer], kept: Rows, closed: Rows
    ) -> None:
        """Choose connections and units of a stage, as it is fed with what is chosen so far."""
        masks: dict[str, Tensor] = {}
        for node, gone in closed.items():
            masks |= masks_of(graph.layers[node], kept[node], ~gone)
        samples = ctx.calibration(self.config.samples)
        activity = mean_activity(graph.traced, samples, masks, _places(stage))
        activity = {place: ctx.mean_over_ranks(mean) for place, mean in activity.items()}
        for layer in stage:
            mass = connection_mass(layer.module, activity[layer.source], self.config.reduction)
            if not mass.isfinite().all():
                raise PluginError(f"{layer.weight}: the mass of its connections is not finite")
            linear = isinstance(layer.module, nn.Linear)
            alpha = self.config.alpha_fc if linear else self.config.alpha_conv
            device = layer.module.weight.device  # masses may be on the host: see `wide`
            kept[layer.node] = keep_strongest(mass, alpha).to(device)
            closed[layer.node] = self._closed(layer, activity).to(device)

    def _closed(self, layer: Layer, activity: Mapping[fx.Node, Tensor]) -> Tensor:
        """Units that hand on nothing, or too little of the residual sum that they end in."""
        handed = channel_norms(activity[layer.end])
        if layer.is_output:
            return torch.zeros_like(handed, dtype=torch.bool)
        if layer.partner is layer.end:
            return handed == 0
        terms = sorted((layer.end, layer.partner))  # of two equal ones both must see the same first
        norms = torch.stack([channel_norms(activity[term]) for term in terms], dim=1)
        return ~keep_strongest(norms, self.config.alpha_conv)[:, terms.index(layer.end)]

    def metrics(self) -> Mapping[str, float]:
        """Of the last update: see `summary`."""
        return self._metrics

    def state_dict(self) -> dict[str, Any]:
        """The metrics."""
        return {"metrics": dict(self._metrics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `state_dict`."""
        self._metrics = dict(state["metrics"])


def _places(layers: Iterable[Layer]) -> set[fx.Node]:
    return {place for layer in layers for place in (layer.source, layer.end, layer.partner)}


def _in_scope(graph: Graph, names: Collection[str]) -> list[Layer]:
    return [layer for layer in graph.layers.values() if layer.weight in names]
