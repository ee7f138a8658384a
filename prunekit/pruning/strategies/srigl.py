"""SRigL: RigL with as many inputs for each neuron, and neurons that are given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit.foundation.parameters import Holders
from prunekit.foundation.timeline import Clock
from prunekit.foundation.transfer import read
from prunekit.pruning.distributions import Demand
from prunekit.pruning.selection import top_masks
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.drop_and_grow import noise
from prunekit.pruning.strategies.rigl import RigL
from prunekit.pruning.structures.constant_fan_in import fan_ins, rows_of, top_of_rows


class SRigL(RigL):
    """Drop the smallest |w| of a layer, and grow in each neuron where |g| is largest.

    All neurons of a layer have k inputs, k from the layer's count at the start. At an update with
    the share f(t) of `rigl`, K = floor(f(t) a) of the a active weights of a layer move:
    the a - K largest |w|, and of all others the K largest |g|, are salient. A neuron with fewer
    salient weights than `gamma_sal` k is ablated: it loses all inputs, for good. What the layer
    may keep is shared by the others, k' = its count at the start over their number, rounded down.
    Of these the salient active weights stay, and each neuron grows by |g| up to k' (section 3.1).
    """

    class Config(RigL.Config):
        """Settings of SRigL."""

        name: Literal["srigl"]  # type: ignore[assignment]
        gamma_sal: float = Field(default=0.3, ge=0, le=1)
        """Share of its inputs that must be salient for a neuron to stay, [0, 1]; 0 = all stay."""

    config: SRigL.Config
    paper = "arXiv:2305.02299 section 3.1"
    _kept: int | None = None
    """Entries of the last update's masks, as counted from their k."""
    _ablated = 0
    """Neurons without an input."""

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """Each parameter must have inputs."""
        rows_of(Holders(model), names)

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """The sum over layers of neurons times k."""
        return self._kept

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """A random choice in each row at first; then ablate, drop and grow."""
        config, weights = self.config, ctx.weights
        rows = rows_of(Holders(ctx.model), weights)
        fans = fan_ins(rows, Demand(weights, config.sparsity, config.min_keep), config.distribution)
        began = {name: rows[name].number * fans[name] for name in weights}
        if ctx.clock.active_step == 0:
            self._kept, self._ablated = sum(began.values()), 0
            chosen = {n: top_of_rows(rows[n].matrix(noise(n, ctx)), fans[n]) for n in weights}
            return Update({n: rows[n].back(mask) for n, mask in chosen.items()})
        layers = {
            n: Neurons(one.matrix(w), one.matrix(ctx.masks[n]), one.matrix(ctx.grads[n]), began[n])
            for (n, w), one in zip(weights.items(), rows.values(), strict=True)
        }
        share = Fraction(repr(self.drop_fraction(ctx.clock)))
        masks = moved(layers, share, config.gamma_sal)
        live = dict(zip(masks, read([m.any(1).sum() for m in masks.values()]), strict=True))
        self._kept = sum(n * fan_in(began[m], n, rows[m].fan_in) for m, n in live.items())
        self._ablated = sum(rows[m].number - n for m, n in live.items())
        return Update({n: rows[n].back(m) for n, m in masks.items()}, skip_step=True)

    def metrics(self) -> Mapping[str, float]:
        """How many neurons were given up."""
        return {"ablated": float(self._ablated)}

    def state_dict(self) -> dict[str, Any]:
        """Of the last update; the masks say all else."""
        return {"ablated": self._ablated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `PruningStrategy`."""
        self._ablated = state["ablated"]


def fan_in(count: int, neurons: int, most: int) -> int:
    """Inputs of each of so many neurons that share a count of weights; at most all."""
    return min(most, count // neurons)


class Neurons(NamedTuple):
    """What an update sees of the neurons of a layer."""

    weight: Tensor
    """Dense, [neurons, inputs]."""
    mask: Tensor
    """Each row with an input has as many."""
    grad: Tensor
    """Dense."""
    most: int
    """Weights that it may keep."""


def moved(layers: Mapping[str, Neurons], share: Fraction, gamma: float) -> dict[str, Tensor]:
    """The next mask of each layer.

    Args:
        layers: by name.
        share: of the active weights of each, that moves.
        gamma: `gamma_sal`.
    """
    sums = [(one.mask.sum(), one.mask.any(1).sum()) for one in layers.values()]
    told = iter(read([tensor for pair in sums for tensor in pair]))
    active = {name: (next(told), next(told)) for name in layers}
    drop = {name: int(share * n) for name, (n, _) in active.items()}
    never = float("-inf")
    retained = top_masks(
        (n, one.weight.abs().masked_fill(~one.mask, never), active[n][0] - drop[n])
        for n, one in layers.items()
    )
    wanted = top_masks(
        (n, one.grad.abs().masked_fill(retained[n] | ~_live(one.mask), never), drop[n])
        for n, one in layers.items()
    )
    masks = {}
    for name, one in layers.items():
        entries, neurons = active[name]
        # as many are salient as were active: some neuron has its k, so one stays whatever gamma is
        salient = (retained[name] | wanted[name]).sum(1, keepdim=True)
        live = _live(one.mask) & (salient >= gamma * (entries // neurons))
        kept = retained[name] & live
        k = (one.most // live.sum()).clamp_max(one.mask.shape[1])
        need = (k - kept.sum(1)).clamp_min(0) * live.squeeze(1)
        masks[name] = kept | top_of_rows(one.grad.abs().masked_fill(kept, never), need)
    return masks


def _live(mask: Tensor) -> Tensor:
    """Whether a neuron has an input, [neurons, 1]."""
    return mask.any(1, keepdim=True)
