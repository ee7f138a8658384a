"""Channels that index selection leaves in: by the graph of Torch-Pruning, where that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from prunekit.errors import PrunekitError, UsageError
from prunekit.pruning.compact.plan import LAST, LayerCut
from prunekit.pruning.compact.surgery import selections
from prunekit.pruning.compact.values import Removed, Stayed
from prunekit.pruning.flow.readers import FEEDS_GROUPED, GATE, GROUPED
from prunekit.pruning.flow.removable import OUTPUT

if TYPE_CHECKING:
    from prunekit.pruning.compact.conv_graph import Removal

MISSING = "needs Torch-Pruning to leave: pip install 'prunekit[removal]'"
BY_GRAPH = {FEEDS_GROUPED, GROUPED, GATE}
"""Reasons for which rows stay here, and may leave by the graph, that takes out what they meet."""


@dataclass(frozen=True)
class Rest:
    """What a model is after a second look, and what was done."""

    model: nn.Module
    removed: tuple[Removed, ...]
    stayed: tuple[Stayed, ...]


def without_rest(
    model: nn.Module,
    channels: Mapping[str, Sequence[int]],
    stayed: Sequence[Stayed],
    shape: tuple[int, ...],
    *,
    required: bool,
) -> Rest:
    """Take out the channels of convolutions that index selection does not cover.

    Those in a sum leave only where all that is summed is empty, so nobody need have the library
    for them; those of depthwise convolutions and gates do.

    Args:
        model: masked, after index selection.
        channels: weight of a convolution -> its empty channels.
        stayed: what index selection says of them and of others.
        shape: [C, H, W].
        required: whether a library that is needed must be there; else that is told.

    Raises:
        UsageError: it is needed, required and not installed.
    """
    unchanged = Rest(model, (), tuple(stayed))
    uncovered = [one for one in stayed if one.layer in channels and one.reason in BY_GRAPH]
    if not channels or not (uncovered or _may_shrink(model)):
        return unchanged
    try:
        graph = import_module("prunekit.pruning.compact.conv_graph")
        closed = {name: torch.tensor(rows) for name, rows in channels.items()}
        made = graph.without_closed(model, closed, shape)
    except (ImportError, UsageError) as error:
        if uncovered and required:
            raise UsageError(f"compact: {uncovered[0].layer} {MISSING}") from error
        told = (replace(one, reason=MISSING) if one in uncovered else one for one in stayed)
        return replace(unchanged, stayed=tuple(told))
    except PrunekitError as error:  # what is there is smaller all the same
        found = f"Torch-Pruning cannot follow the model ({error})"
        told = (_because(one, found) if one.layer in channels else one for one in stayed)
        return replace(unchanged, stayed=tuple(told))
    sizes = {n: len(p) for n, p in model.named_parameters() if n in made.removed}
    removed = tuple(
        Removed(name, "channels", size, size - made.removed[name]) for name, size in sizes.items()
    )
    return Rest(made.model, removed, tuple(_still_there(stayed, channels, made)))


def _may_shrink(model: nn.Module) -> bool:
    """Whether the streams of a model may be smaller: ours are built by widths that fix them."""
    own = type(model).__module__.startswith("prunekit.models")
    return not own and find_spec("torch_pruning") is not None


def _still_there(
    stayed: Sequence[Stayed], channels: Mapping[str, Sequence[int]], made: Removal
) -> Iterator[Stayed]:
    """What is left of what stayed, with what the graph says of it."""
    gone = dict(made.removed)
    for one in stayed:
        if one.layer not in channels or one.reason in (LAST, OUTPUT):
            yield one
            continue
        left = max(0, one.count - gone.get(one.layer, 0))
        gone[one.layer] = gone.get(one.layer, 0) - (one.count - left)
        if left:
            yield _because(replace(one, count=left), made.stayed.get(one.layer))


def _because(one: Stayed, why: str | None) -> Stayed:
    bound = one.reason not in (LAST, OUTPUT)
    return replace(one, reason=f"{one.reason}: {why}") if why and bound else one


def renumbered(
    channels: Mapping[str, Sequence[int]], cuts: Sequence[LayerCut]
) -> dict[str, list[int]]:
    """The channels by their numbers once the cuts are made."""
    gone = selections(cuts)
    return {
        name: [row - sum(left < row for left in gone.get((name, 0), ())) for row in rows]
        for name, rows in channels.items()
    }
