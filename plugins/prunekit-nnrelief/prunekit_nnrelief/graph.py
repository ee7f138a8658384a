"""A model as layers of units and what lies between them, by torch.fx."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from torch import fx, nn

from prunekit import RecipeError
from prunekit_nnrelief.operations import added_channels, kind_of, refusal


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer or convolution, with what follows it alone."""

    path: str
    module: nn.Linear | nn.Conv2d
    node: fx.Node
    source: fx.Node
    """What it reads."""
    norms: tuple[str, ...]
    """Paths of the BatchNorms behind it."""
    end: fx.Node
    """The last of the BatchNorms and activations behind it: what its units hand on."""
    partner: fx.Node
    """The other term, where `end` goes into an addition and nowhere else; else `end`."""
    is_output: bool
    """Whether the model's output is reached without another layer: its units never go."""

    @property
    def weight(self) -> str:
        """Name of its weight."""
        return f"{self.path}.weight"

    @property
    def bias(self) -> str | None:
        """Name of its bias; None if it has none."""
        return None if self.module.bias is None else f"{self.path}.bias"

    @property
    def norm_parameters(self) -> tuple[str, ...]:
        """Names of the scales and shifts behind it."""
        return tuple(f"{norm}.{own}" for norm in self.norms for own in ("weight", "bias"))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all that belongs to its units."""
        return (self.weight, *([self.bias] if self.bias else []), *self.norm_parameters)


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced model; shares its modules."""

    traced: fx.GraphModule
    kinds: dict[fx.Node, str]
    """What each operation does, as `kind_of` says, in the order of execution."""
    channels: dict[fx.Node, int]
    """Channels of what comes out: behind a layer, up to a flatten."""
    layers: dict[fx.Node, Layer]
    """By their node, in the order of execution."""


def trace(model: nn.Module) -> Graph:
    """Follow the units through a model.

    Raises:
        RecipeError: it cannot be traced, or an operation on its way is none of the known.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:  # whatever the model's own forward does with a proxy
        raise RecipeError(
            f"strategy nnrelief: torch.fx cannot trace {type(model).__name__} "
            f"({str(error).splitlines()[0]}): its forward may not branch on values"
        ) from error
    kinds = {node: kind_of(traced, node) for node in traced.graph.nodes}
    _check_shared(traced, kinds)
    channels: dict[fx.Node, int] = {}
    for node, kind in kinds.items():
        if (count := _channels(traced, node, kind, channels)) is not None:
            channels[node] = count
    ends = _leading_out(kinds)
    layers = {n: _layer(traced, n, kinds, ends) for n, kind in kinds.items() if kind == "layer"}
    return Graph(traced, kinds, channels, layers)


def _channels(
    traced: fx.GraphModule, node: fx.Node, kind: str, channels: dict[fx.Node, int]
) -> int | None:
    """Channels of what comes out; None before the first layer and behind a flatten."""
    if kind == "layer":
        return len(_module(traced, node).weight)
    counts = {channels[source] for source in node.all_input_nodes if source in channels}
    if len(counts) > 1:
        raise refusal(node, f"adds {' and '.join(map(str, counts))} channels")
    if not counts or kind in ("flatten", "output"):
        return None
    return counts.pop() + (sum(added_channels(node) or ()) if kind == "pad" else 0)


def _layer(
    traced: fx.GraphModule,
    node: fx.Node,
    kinds: Mapping[fx.Node, str],
    leading_out: Collection[fx.Node],
) -> Layer:
    norms, end = [], node
    while len(end.users) == 1 and kinds[next(iter(end.users))] in ("norm", "channelwise"):
        end = next(iter(end.users))
        if kinds[end] == "norm":
            norms.append(str(end.target))
    return Layer(
        path=str(node.target),
        module=_module(traced, node),
        node=node,
        source=node.all_input_nodes[0],
        norms=tuple(norms),
        end=end,
        partner=_partner(end, kinds),
        is_output=node in leading_out,
    )


def _partner(end: fx.Node, kinds: Mapping[fx.Node, str]) -> fx.Node:
    """The other term, where `end` only goes into an addition; else `end`."""
    users = list(end.users)
    if len(users) == 1 and kinds[users[0]] == "add":
        return next(term for term in users[0].all_input_nodes if term is not end)
    return end


def _leading_out(kinds: Mapping[fx.Node, str]) -> set[fx.Node]:
    """The nodes from which the output is reached without a layer on the way."""
    found: set[fx.Node] = set()
    for node, kind in reversed(list(kinds.items())):
        if kind == "output" or any(u in found and kinds[u] != "layer" for u in node.users):
            found.add(node)
    return found


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Linear | nn.Conv2d:
    return cast("nn.Linear | nn.Conv2d", traced.get_submodule(str(node.target)))


def _check_shared(traced: fx.GraphModule, kinds: Mapping[fx.Node, str]) -> None:
    """A unit has one place."""
    owners: dict[int, str] = {}
    for node in (node for node, kind in kinds.items() if kind in ("layer", "norm")):
        for name, parameter in traced.get_submodule(str(node.target)).named_parameters():
            full = f"{node.target}.{name}"
            if (other := owners.setdefault(id(parameter), full)) != full:
                raise refusal(node, f"shares {name} with {other}")
        if sum(other.target == node.target for other in kinds) > 1:
            raise refusal(node, "is used more than once")
