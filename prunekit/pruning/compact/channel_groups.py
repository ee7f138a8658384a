"""What goes with an empty channel, by Torch-Pruning's graph, and whether it may go."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from prunekit.foundation.modules import copy_on
from prunekit.foundation.parameters import Holders
from prunekit.pruning.compact.zero_inputs import zero_inputs


@dataclass(frozen=True)
class ChannelPlace:
    """The inputs or the outputs of one layer, or an axis of one parameter."""

    path: str
    prunes: Callable[[Any, list[int]], Any]
    """Of Torch-Pruning: takes channels out of a module in place, of a parameter in a new one."""
    axis: int
    """Of a parameter or of a LayerNorm."""
    makes: bool
    """Whether these are the outputs of a convolution or linear layer."""

    def prune(self, model: nn.Module, channels: set[int]) -> None:
        """Take channels out of a model."""
        pruner: Any = self.prunes.__self__  # type: ignore[attr-defined]
        pruner.pruning_dim = self.axis
        owner, _, own = self.path.rpartition(".")
        target = getattr(model.get_submodule(owner), own) if own else model
        left = self.prunes(target, sorted(channels))
        if isinstance(target, nn.Parameter):
            setattr(model.get_submodule(owner), own, left)


@dataclass
class ChannelCut:
    """Empty channels of some weights that may go, with all that goes with them."""

    weights: list[str]
    channels: dict[ChannelPlace, set[int]] = field(default_factory=dict)

    @staticmethod
    def together(cuts: Sequence[ChannelCut]) -> dict[ChannelPlace, set[int]]:
        """What several take out, by place."""
        found: dict[ChannelPlace, set[int]] = {}
        for cut in cuts:
            for place, channels in cut.channels.items():
                found.setdefault(place, set()).update(channels)
        return found


def _joined(cuts: Sequence[ChannelCut]) -> list[ChannelCut]:
    """Cuts that have a channel in common are one."""
    found: list[ChannelCut] = []
    at: dict[tuple[ChannelPlace, int], ChannelCut] = {}
    for cut in cuts:
        own = [(place, one) for place, channels in cut.channels.items() for one in channels]
        others = {id(other): other for key in own if (other := at.get(key)) is not None}
        whole = ChannelCut(
            [w for one in (*others.values(), cut) for w in one.weights],
            ChannelCut.together([*others.values(), cut]),
        )
        found = [one for one in found if id(one) not in others] + [whole]
        for place, channels in whole.channels.items():
            at |= dict.fromkeys(((place, one) for one in channels), whole)
    return found


@dataclass
class ChannelPlan:
    """What may go."""

    cuts: list[ChannelCut]
    """No two have a channel in common."""
    reasons: dict[str, dict[int, str]] = field(default_factory=dict)
    """Weight -> channel that stays -> why."""


def plan_cuts(
    model: nn.Module, closed: Mapping[str, Sequence[int]], input_shape: Sequence[int]
) -> ChannelPlan:
    """Follow each empty channel, and let it go where nothing reads anything but zeros of it.

    Args:
        model: it is not changed.
        closed: weight -> numbers of its empty channels.
        input_shape: [C, H, W].

    Raises:
        Exception: whatever Torch-Pruning or the model raises.
    """
    graph = _Graph(model, input_shape)
    cuts, taken = list[ChannelCut](), dict[ChannelPlace, set[int]]()
    reasons: dict[str, dict[int, str]] = {}
    for weight, rows in closed.items():
        try:
            group = graph.group(weight, rows)
        except Exception as error:  # of a foreign library, on any layer
            group = f"they cannot be followed ({library_fault(error)})"
        if isinstance(group, str):
            reasons[weight] = dict.fromkeys(rows, group)
            continue
        cut = ChannelCut([weight])
        for row, (reason, members) in group.items():
            reason = reason or graph.last(taken, members)
            if reason:
                reasons.setdefault(weight, {})[row] = reason
                continue
            for place, channel in members:
                taken.setdefault(place, set()).add(channel)
                cut.channels.setdefault(place, set()).add(channel)
        if cut.channels:
            cuts.append(cut)
    return ChannelPlan(_joined(cuts), reasons)


def library_fault(error: Exception) -> str:
    """An error of a foreign library."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)


Members = list[tuple[ChannelPlace, int]]
READS = "reads more there than zeros"


class _Graph:
    """Torch-Pruning's graph of a copy of a model, with what is known of its zeros."""

    def __init__(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        import torch_pruning

        self._tp = torch_pruning
        self._zero = zero_inputs(model, input_shape)
        self._own = copy_on(model, "cpu").float().eval()
        self._own.requires_grad_(True)
        self._holders = Holders(self._own)
        self._paths = {module: path for path, module in self._own.named_modules()}
        self._sizes: dict[ChannelPlace, int] = {}
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of parameters outside of layers, of unknown operations
            example = (torch.zeros(1, *input_shape),)
            self._graph = torch_pruning.DependencyGraph()
            self._graph.build_dependency(self._own, example, verbose=False)

    def group(self, weight: str, rows: Sequence[int]) -> dict[int, tuple[str, Members]] | str:
        """Row of a weight -> why it stays, or nothing and what goes with it; a sentence for all."""
        holder = self._holders.first(weight) if weight in self._holders.places else None
        layer = holder.module if holder else None
        if holder is None or holder.own != "weight" or not isinstance(layer, nn.Linear | _ConvNd):
            return "it is no weight of a convolution or linear layer"
        if len(self._holders.places[weight]) > 1:
            return "it is held in several places"
        if layer not in self._graph.module2node:
            return f"{holder.path} is not called as a module"
        prunes = self._graph.get_pruner_of_module(layer).prune_out_channels
        found: dict[int, tuple[str, Members]] = {row: ("", []) for row in rows}
        for item in self._graph.get_pruning_group(layer, prunes, list(rows)):
            fault, place = self._fault(item.dep), self._place(item.dep)
            for channel, row in zip(item.idxs, item.root_idxs, strict=True):
                reason, members = found[row]
                reason = reason or fault or self._read(item.dep, channel)
                if place is not None:
                    members.append((place, channel))
                found[row] = (reason, members)
        for row, (reason, members) in found.items():
            if reason.endswith(READS) and (partner := self._partner(weight, members)):
                found[row] = (f"they meet channels of {partner} that are not empty", members)
        return found

    def last(self, taken: Mapping[ChannelPlace, set[int]], members: Members) -> str:
        """Why a channel stays where a layer would have none left."""
        more: dict[ChannelPlace, set[int]] = {}
        for place, channel in members:
            more.setdefault(place, set()).add(channel)
        for place, channels in more.items():
            if len(channels | taken.get(place, set())) >= self._sizes[place]:
                return f"all channels of {place.path} are empty, and it keeps one"
        return ""

    def _fault(self, dep: Any) -> str:
        """Why channels that reach a node stay."""
        kinds, node = self._tp.ops.OPTYPE, dep.target
        path = self._path(node.module)
        if node.type in (kinds.LN, kinds.GN):
            return f"{path} takes its statistics over several channels"
        if node.type in (kinds.MHA, kinds.LSTM, kinds.EMBED):
            return f"they reach {path}, whose units are no channels"
        module = node.module
        if isinstance(module, _ConvNd) and module.groups > 1:
            each = module.in_channels == module.out_channels == module.groups
            if not each:
                return f"{path} is a convolution in {module.groups} groups"
        if node.type == kinds.OUTPUT or (not node.outputs and not self._is_read(dep)):
            return "they are outputs of the model"
        return ""

    def _place(self, dep: Any) -> ChannelPlace | None:
        """Where a node has channels; None where it is an operation without parameters."""
        module = dep.target.module
        path = self._path(module)
        if not path:
            return None
        kinds = self._tp.ops.OPTYPE
        makes = isinstance(module, nn.Linear | _ConvNd) and not self._is_read(dep)
        place = ChannelPlace(path, dep.handler, dep.target.pruning_dim, makes)
        if dep.target.type == kinds.PRELU and module.num_parameters == 1:
            return None
        if place not in self._sizes:
            outputs = makes or not self._is_read(dep)
            count = self._graph.get_out_channels if outputs else self._graph.get_in_channels
            size = count(dep.target)
            if size is None:
                return None
            self._sizes[place] = size
        return place

    def _is_read(self, dep: Any) -> bool:
        """Whether a node is a layer by its inputs."""
        pruner = self._graph.get_pruner_of_module(dep.target.module)
        apart: bool = pruner.prune_in_channels != pruner.prune_out_channels
        return apart and dep.handler == pruner.prune_in_channels

    def _path(self, module: Any) -> str:
        if isinstance(module, nn.Parameter):
            return self._holders.name_of(module) or ""
        found: str = self._paths.get(module, "")
        return found

    def _read(self, dep: Any, channel: int) -> str:
        """Why a channel stays that a layer reads."""
        if not self._is_read(dep):
            return ""
        path = self._path(dep.target.module)
        zero = self._zero.get(path)
        if zero is None:
            return f"{path} is not called as a module"
        return "" if bool(zero[channel]) else f"{path} {READS}"

    def _partner(self, weight: str, members: Members) -> str:
        """Another layer with a channel in a group that is not empty."""
        for place, channel in members:
            if place.makes and f"{place.path}.weight" != weight:
                layer: Any = self._own.get_submodule(place.path)
                rows = (
                    layer.weight.transpose(0, 1)
                    if getattr(layer, "transposed", False)
                    else layer.weight
                )
                if rows[channel].any():
                    return place.path
        return ""
