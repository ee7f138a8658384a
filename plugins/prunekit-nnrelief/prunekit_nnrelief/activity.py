"""What flows through a model: the mean absolute value at chosen places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from prunekit_nnrelief.graph import Layer
from prunekit_nnrelief.operations import refusal
from prunekit_nnrelief.wide import wide


class _Watched(fx.Interpreter):
    """Runs a traced model with masks, and adds up |x| over samples at `places`."""

    def __init__(
        self,
        traced: fx.GraphModule,
        masks: Mapping[str, Tensor],
        places: Collection[fx.Node],
    ) -> None:
        super().__init__(traced)
        self.masks, self.places = masks, places
        self.sums: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.places:
            total = wide(value.detach()).abs().sum(0)
            self.sums[n] = self.sums[n] + total if n in self.sums else total
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        masked = _masked(module, target, self.masks)
        return functional_call(module, masked, args, kwargs) if masked else module(*args, **kwargs)


def _masked(module: nn.Module, path: str, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = module.named_parameters(recurse=False)
    return {n: p * masks[full] for n, p in own if (full := f"{path}.{n}") in masks}


@torch.no_grad()
def mean_activity(
    traced: fx.GraphModule,
    batches: Iterable[tuple[Tensor, Tensor]],
    masks: Mapping[str, Tensor],
    places: Collection[fx.Node],
) -> dict[fx.Node, Tensor]:
    """The mean over samples of |x| at each place; labels are not looked at.

    Args:
        traced: in evaluation mode; it is not written to.
        batches: samples and labels; one batch is held at a time.
        masks: parameter name -> bool; parameters that are not named are as they are.
        places: nodes of `traced`.

    Returns:
        place -> float64, the shape there without the samples' dimension.
    """
    watched, samples = _Watched(traced, masks, places), 0
    for x, _ in batches:
        watched.run(x)
        samples += len(x)
    return {place: total / samples for place, total in watched.sums.items()}


def check_dimensions(layer: Layer, activity: Mapping[fx.Node, Tensor]) -> None:
    """See that a layer's units are channels: tracing knows no shapes.

    Raises:
        RecipeError: the layer reads more or fewer dimensions, or a sum repeats one of its terms.
    """
    read, wanted = activity[layer.source].ndim, 1 if isinstance(layer.module, nn.Linear) else 3
    if read != wanted:
        raise refusal(layer.node, f"reads samples of {read} dimensions in place of {wanted}")
    own, other = (activity[term].shape[:1] for term in (layer.end, layer.partner))
    if own != other:
        raise refusal(layer.node, f"is added to {other.numel()} channels, and has {own.numel()}")
