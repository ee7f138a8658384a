"""What leaves a model, layer by layer, and what is empty and stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from prunekit.foundation.parameters import Holder, Holders
from prunekit.models.attention import can_lose_heads
from prunekit.pruning.compact.emptiness import Empty
from prunekit.pruning.compact.values import Removed, Stayed
from prunekit.pruning.flow import AttentionHeads, Removable, RowUnit
from prunekit.pruning.flow.removable import OUTPUT, Place

LAST = "is the last one, and a layer keeps one"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LayerCut:
    """What leaves with the units of one layer."""

    removed: tuple[Removed, ...]
    """By weight: two where rows of two weights are multiplied."""
    lines: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    """Parameter and axis -> what leaves along it; axis -1: the entries of a vector."""
    attention: AttentionHeads | None = None
    """The one that loses heads."""
    owner: str = ""
    """The path of the module that it is of."""

    @property
    def layer(self) -> str:
        """What to call it."""
        return self.removed[0].layer


@dataclass
class RemovalPlan:
    """What leaves, and what stays."""

    cuts: list[LayerCut]
    stayed: list[Stayed]
    channels: dict[str, list[int]]
    """Weight of a convolution -> its channels that are empty and stay, outputs left out."""


def plan_removal(model: nn.Module, found: Removable, empty: Empty) -> RemovalPlan:
    """What is empty in a model, and may leave it or not."""
    holders, stayed = Holders(model), list[Stayed]()
    cuts, told_of = list[LayerCut](), set[Place]()
    for attention in found.attentions:
        gone = empty.heads(attention)
        cut, told = _heads_cut(model, holders, attention, gone)
        stayed += told
        cuts += [] if cut is None else [cut]
        told_of |= {
            (w, at) for w, of in attention.rows.items() for at, h in enumerate(of) if h in gone
        }
    leaving, bound, channels = list[RowUnit](), Counter[tuple[str, str]](), dict[str, list[int]]()
    for unit in found.units:
        reason = unit.reason or _not_ours(holders, unit)
        if not reason and empty.unit(unit):
            leaving.append(unit)
            continue
        if not reason and unit.constants:
            reason = f"is a constant other than 0 where {min(unit.constants)[0]} reads it"
        if not reason:
            continue
        for place in unit.rows:
            if place not in told_of and empty.row(place):
                bound[place[0], reason] += 1
                if reason != OUTPUT and isinstance(holders.first(place[0]).module, CONVOLUTIONS):
                    channels.setdefault(place[0], []).append(place[1])
    kept = _last_ones(holders, leaving)
    bound.update((unit.rows[0][0], LAST) for unit in kept)
    ids = set(map(id, kept))
    cuts += _row_cuts(holders, [unit for unit in leaving if id(unit) not in ids])
    stayed += [Stayed(w, "channels", count, reason) for (w, reason), count in bound.items()]
    return RemovalPlan(cuts, stayed, channels)


# ---- rows


def _not_ours(holders: Holders, unit: RowUnit) -> str:
    """Why the rows or columns cannot be taken out of what holds them; nothing where they can."""
    for name in dict.fromkeys(name for name, _ in (*unit.rows, *unit.columns)):
        holder = holders.first(name)
        layer = isinstance(holder.module, (nn.Linear, *CONVOLUTIONS))
        if not layer or holder.own != "weight" or getattr(holder.module, "groups", 1) != 1:
            return f"belongs to {name}, of no Linear layer or plain convolution"
    for name in dict.fromkeys(name for name, _ in (*unit.rows, *unit.columns, *unit.vectors)):
        if len({id(one.module) for one in holders.places[name]}) > 1:
            return f"belongs to {name}, which several modules hold"
    return ""


def _last_ones(holders: Holders, leaving: Sequence[RowUnit]) -> list[RowUnit]:
    """Of each weight that would lose all rows or columns, the first unit."""
    left = Counter[tuple[str, int]]()
    lines = [(unit, _lines(unit)) for unit in leaving]
    for _, own in lines:
        left.update({line: len(places) for line, places in own.items()})
    kept: list[RowUnit] = []
    for unit, own in lines:
        if any(left[line] == _size(holders.first(line[0]), line[1]) for line in own):
            kept.append(unit)
            left.subtract({line: len(places) for line, places in own.items()})
    return kept


def _size(holder: Holder, axis: int) -> int:
    return holder.parameter.numel() if axis < 0 else holder.shape[axis]


def _lines(unit: RowUnit) -> dict[tuple[str, int], set[int]]:
    found: dict[tuple[str, int], set[int]] = {}
    for axis, places in ((0, unit.rows), (1, unit.columns), (-1, unit.vectors)):
        for name, at in places:
            found.setdefault((name, axis), set()).add(at)
    return found


def _row_cuts(holders: Holders, leaving: Sequence[RowUnit]) -> Iterator[LayerCut]:
    """Units of the same weights leave together."""
    layers: dict[tuple[str, ...], list[RowUnit]] = {}
    for unit in leaving:
        layers.setdefault(tuple(dict.fromkeys(w for w, _ in unit.rows)), []).append(unit)
    for names, units in layers.items():
        rows: dict[str, list[int]] = {name: [] for name in names}
        lines: dict[tuple[str, int], set[int]] = {}
        for unit in units:
            for name, at in unit.rows:
                rows[name].append(at)
            for line, places in _lines(unit).items():
                lines.setdefault(line, set()).update(places)
        removed = (
            Removed(name, "channels", (size := holders.first(name).shape[0]), size - len(gone))
            for name, gone in rows.items()
        )
        yield LayerCut(tuple(removed), lines)


# ---- heads


def _heads_cut(
    model: nn.Module, holders: Holders, attention: AttentionHeads, gone: Sequence[int]
) -> tuple[LayerCut | None, list[Stayed]]:
    name = next(iter(attention.rows))
    owner = _owner([holders.first(n).path for n in (*attention.rows, *attention.columns)])
    module = model.get_submodule(owner)
    if gone and isinstance(module, nn.MultiheadAttention) and not can_lose_heads(module):
        reason = "shares its attention with keys that no input gives (add_bias_kv, add_zero_attn)"
        return None, [Stayed(name, "heads", len(gone), reason)]
    stayed = []
    if len(gone) == attention.heads:
        stayed, gone = [Stayed(name, "heads", 1, LAST)], gone[1:]
    if not gone:
        return None, stayed
    lines: dict[tuple[str, int], set[int]] = {}
    for weight, heads in attention.rows.items():
        axis = 0 if len(holders.first(weight).shape) > 1 else -1
        lines[weight, axis] = {at for at, head in enumerate(heads) if head in gone}
    for weight, heads in attention.columns.items():
        lines[weight, 1] = {at for at, head in enumerate(heads) if head in gone}
    removed = Removed(name, "heads", attention.heads, attention.heads - len(gone))
    return LayerCut((removed,), lines, attention, owner), stayed


def _owner(paths: Sequence[str]) -> str:
    """The innermost module around all of the paths."""
    parts = [path.split(".") for path in paths]
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
