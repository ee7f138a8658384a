"""Channels that index selection leaves in: by the graph of Torch-Pruning, where that is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from prunekit.errors import PrunekitError, UsageError
from prunekit.pruning.compact.plan import LayerCut
from prunekit.pruning.compact.surgery import selections
from prunekit.pruning.compact.values import Removed, Stayed
from prunekit.pruning.flow.readers import FEEDS_GROUPED, GATE, GROUPED

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
    except PrunekitError:  # it cannot follow the model: what is there is smaller all the same
        return unchanged
    sizes = {n: len(p) for n, p in model.named_parameters() if n in made.removed}
    removed = tuple(
        Removed(name, "channels", size, size - made.removed[name]) for name, size in sizes.items()
    )
    left = [_fewer(one, made.removed.get(one.layer, 0)) for one in stayed]
    return Rest(made.model, removed, tuple(one for one in left if one.count > 0))


def _may_shrink(model: nn.Module) -> bool:
    """Whether the streams of a model may be smaller: ours are built by widths that fix them."""
    own = any(type(module).__module__.startswith("prunekit.models") for module in model.modules())
    return not own and find_spec("torch_pruning") is not None


def _fewer(one: Stayed, gone: int) -> Stayed:
    return replace(one, count=one.count - gone) if one.unit == "channels" else one


def renumbered(
    channels: Mapping[str, Sequence[int]], cuts: Sequence[LayerCut]
) -> dict[str, list[int]]:
    """The channels by their numbers once the cuts are made."""
    gone = selections(cuts)
    return {
        name: [row - sum(left < row for left in gone.get((name, 0), ())) for row in rows]
        for name, rows in channels.items()
    }
