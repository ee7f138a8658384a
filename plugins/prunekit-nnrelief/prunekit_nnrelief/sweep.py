"""Which units still lead somewhere: one walk from the output to the input."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from prunekit_nnrelief.graph import Graph
from prunekit_nnrelief.operations import added_channels


def live_units(
    graph: Graph, connections: Mapping[fx.Node, Tensor], closed: Mapping[fx.Node, Tensor]
) -> dict[fx.Node, Tensor]:
    """The units of each layer that are not closed and from which a path leads to the output.

    A path goes along kept connections of live units, through BatchNorm, activations and pooling
    within its channel, through a flatten from all columns of the channel, and through additions. As
    no path goes in circles, one walk backwards is the fixpoint. Outputs of the model always live.

    Args:
        graph: the model.
        connections: layer -> bool [out, in / groups], True = kept.
        closed: layer -> bool [out], True = gives zero and leads nowhere.

    Returns:
        layer -> bool [out].
    """
    some = next(iter(connections.values()))
    needed: dict[fx.Node, Tensor] = {}
    for node, kind in reversed(graph.kinds.items()):
        if kind == "output":
            for source in node.all_input_nodes:
                needed[source] = some.new_ones(graph.channels.get(source, ()))
        elif node in needed:
            if node in closed:
                needed[node] = needed[node] & ~closed[node]
            back = _sources_needed(graph, node, kind, needed[node], connections)
            for source in node.all_input_nodes:
                needed[source] = needed[source] | back if source in needed else back
    return {n: needed.get(n, torch.zeros_like(kept[:, 0])) for n, kept in connections.items()}


def _sources_needed(
    graph: Graph, node: fx.Node, kind: str, needed: Tensor, connections: Mapping[fx.Node, Tensor]
) -> Tensor:
    """Which channels a node needs of what it reads."""
    if kind == "layer":
        return _inputs_needed(graph.layers[node].module, connections[node] & needed[:, None])
    if kind == "flatten" and (count := graph.channels.get(node.all_input_nodes[0])):
        return needed.expand(count) if needed.ndim == 0 else needed.view(count, -1).any(1)
    if kind == "pad":
        front, behind = added_channels(node) or (0, 0)
        return needed[front : len(needed) - behind]
    return needed


def _inputs_needed(layer: nn.Linear | nn.Conv2d, kept: Tensor) -> Tensor:
    """[in], from the kept connections of needed units, [out, in / groups]."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return kept.view(groups, -1, kept.shape[1]).any(1).flatten()
