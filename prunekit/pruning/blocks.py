"""Layers in the groups that a model repeats: the blocks of a transformer, of a residual net."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

Order = Literal["block", "layer", "dense"]


def in_turns(model: nn.Module, names: Iterable[str], order: Order) -> list[list[str]]:
    """Names of parameters in groups, each in the order of its first name.

    Args:
        model: the plain module.
        names: of its parameters, in the order of their use.
        order: `block`: those of a block together; `layer`: each alone; `dense`: all together.
    """
    if order == "layer":
        return [[name] for name in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("" if order == "dense" else block_of(model, name), []).append(name)
    return [*groups.values()]


def block_of(model: nn.Module, name: str) -> str:
    """The innermost module around a parameter that has parts and stands in a list beside others of
    its class; the module that holds the parameter where there is none."""
    path = name.split(".")[:-1]
    module, found = model, ".".join(path)
    for i, part in enumerate(path):
        parent, module = module, module.get_submodule(part)
        alike = sum(type(child) is type(module) for child in parent.children())
        in_list = isinstance(parent, nn.ModuleList | nn.Sequential)
        if in_list and alike > 1 and any(True for _ in module.children()):
            found = ".".join(path[: i + 1])
    return found
