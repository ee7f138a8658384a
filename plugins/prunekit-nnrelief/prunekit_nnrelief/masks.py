"""From the connections that a layer keeps to the masks of its parameters, and what they leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from prunekit_nnrelief.graph import Layer


def all_kept(layer: Layer) -> Tensor:
    """Every connection, bool [out, in / groups + 1], the bias last."""
    outputs, inputs = layer.module.weight.shape[:2]
    shape = (outputs, inputs + 1)
    return torch.ones(shape, dtype=torch.bool, device=layer.module.weight.device)


def masks_of(layer: Layer, kept: Tensor, live: Tensor) -> dict[str, Tensor]:
    """Masks of all that belongs to a layer's units; a kernel is kept or pruned whole.

    Args:
        layer: of whose parameters.
        kept: bool [out, in / groups + 1], the bias last.
        live: bool [out]; a unit that does not live loses everything.
    """
    kept, weight = kept & live[:, None], layer.module.weight
    kernels = kept[:, :-1].view(*weight.shape[:2], *[1] * (weight.ndim - 2))
    own = {layer.weight: kernels.expand_as(weight).contiguous()}
    if layer.bias is not None:
        own[layer.bias] = kept[:, -1]
    return own | dict.fromkeys(layer.norm_parameters, live)


def summary(layers: Iterable[Layer], masks: Mapping[str, Tensor]) -> dict[str, float]:
    """What the masks leave of weights and biases; BatchNorm is not counted, as in the paper.

    Returns:
        `sparsity`, `compression` (all over kept; of nothing kept, all over 1), and by layer
        `live_units/<path>`: units that anything goes into, a bias of their own included.
    """
    kept, entries, live = 0, 0, {}
    for layer in layers:
        rows = masks[layer.weight].flatten(1)
        if layer.bias is not None:
            rows = torch.cat([rows, masks[layer.bias][:, None]], dim=1)
        kept, entries = kept + int(rows.sum()), entries + rows.numel()
        live[f"live_units/{layer.path}"] = float(rows.any(1).sum())
    return {"sparsity": 1 - kept / entries, "compression": entries / max(kept, 1), **live}
