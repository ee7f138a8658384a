"""Lower learning rates for earlier layers, which are told from the names of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from prunekit.errors import RecipeError

NUMBERED = re.compile(r"\d+|.*_\d+")
"""The part of a name that numbers a layer: `3` of `blocks.3`, or `encoder_layer_3`."""


def layer_scales(model: nn.Module, names: Iterable[str], decay: float | None) -> dict[str, float]:
    """Factor on the learning rate of each parameter: `decay` to the number of layers above it.

    As in BEiT (arXiv:2106.08254) and timm: what comes before the first layer is layer 0, as the
    patch embedding, class token and positions; what comes behind the last, as norm and head, has
    the whole rate. A model of timm groups its parameters itself.

    Args:
        model: the plain module.
        names: its parameters.
        decay: factor from layer to layer, (0, 1]; None = 1.

    Raises:
        RecipeError: no layer is numbered.
    """
    if decay is None:
        return {}
    names = list(names)
    layers = _of_timm(model) or layers_by_name(names)
    last = max(layers.values(), default=0)
    if not last:
        raise RecipeError(
            "optimizer.layer_decay: no layer of this model has a number in its name, as blocks.3: "
            "write optimizer.rules with lr_scale instead"
        )
    return {name: decay ** (last - layers.get(name, last)) for name in names}


def layers_by_name(names: Iterable[str]) -> dict[str, int]:
    """Parameter -> the number of its layer, in the order of the model.

    A layer is named up to the first part with a number: `blocks.3`, `layer1.0`.
    """
    found: dict[str, int] = {}
    blocks: dict[str, int] = {}
    stem = 0
    for name in names:
        block = _block(name)
        if block is not None:
            blocks.setdefault(block, len(blocks) + stem)
            found[name] = blocks[block]
        elif not blocks:
            found[name], stem = 0, 1
        else:
            found[name] = -1  # behind all layers
    behind = len(blocks) + stem
    return {name: behind if layer < 0 else layer for name, layer in found.items()}


def _block(name: str) -> str | None:
    parts = name.split(".")[:-1]
    for index, part in enumerate(parts):
        if NUMBERED.fullmatch(part):
            return ".".join(parts[: index + 1])
    return None


def _of_timm(model: nn.Module) -> dict[str, int]:
    matcher = getattr(model, "group_matcher", None)
    if matcher is None or not type(model).__module__.startswith("timm."):
        return {}
    from timm.models import group_parameters

    groups: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    return groups
