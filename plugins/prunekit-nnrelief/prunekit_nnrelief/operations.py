"""What an operation does with the channels that it is given."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from prunekit import RecipeError

CHANNELWISE_MODULES = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)
CHANNELWISE = {
    *(F.relu, F.relu6, F.leaky_relu, F.gelu, F.silu, F.dropout, torch.relu, torch.tanh),
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, "relu", "relu_", "tanh", "contiguous"),
}
"""Each channel by itself, and a channel of zeros stays one."""
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
FLATTENINGS = {torch.flatten, "flatten"}
KNOWN = (
    "nnrelief knows Linear, Conv2d, BatchNorm, activations with f(0) = 0, dropout, pooling, flatten"
    " and additions"
)


def kind_of(traced: fx.GraphModule, node: fx.Node) -> str:
    """`input`, `layer`, `norm`, `channelwise`, `pad`, `flatten`, `add` or `output`.

    Raises:
        RecipeError: it is none of them.
    """
    match node.op:
        case "placeholder":
            return "input"
        case "output":
            return "output"
        case "call_module":
            return _kind_of_module(node, traced.get_submodule(str(node.target)))
        case "call_function" | "call_method":
            return _kind_of_function(node)
    raise refusal(node, "reads a tensor of the model in its own way")


def _kind_of_module(node: fx.Node, module: nn.Module) -> str:
    if type(module) is nn.Linear:
        return "layer"
    if type(module) is nn.Conv2d:
        if module.padding_mode != "zeros":
            raise refusal(node, f"pads by {module.padding_mode!r}, not by zeros")
        return "layer"
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        if not module.affine:
            raise refusal(node, "has no scale and shift that could be pruned with a unit")
        return "norm"
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return "flatten"
    if isinstance(module, CHANNELWISE_MODULES):
        return "channelwise"
    raise refusal(node, f"is a {type(module).__name__}")


def _kind_of_function(node: fx.Node) -> str:
    if node.target in ADDITIONS and len(node.all_input_nodes) == 2 and not node.kwargs:
        return "add"
    if node.target in FLATTENINGS and node.args[1:] == (1,) and not node.kwargs:
        return "flatten"
    if node.target in CHANNELWISE or (node.target is operator.getitem and _thins(node.args[1])):
        return "channelwise"
    if node.target is F.pad and added_channels(node) is not None:
        return "pad"
    name = getattr(node.target, "__name__", node.target)
    raise refusal(node, f"calls {name}({', '.join(map(str, node.args))})")


def _thins(index: Any) -> bool:
    """Whether an index only picks positions, as x[:, :, ::2, ::2] does."""
    whole = slice(None, None, None)
    return isinstance(index, tuple) and index[:2] == (whole, whole) and len(index) > 2


def added_channels(node: fx.Node) -> tuple[int, int] | None:
    """Channels of zeros in front and behind that F.pad adds to [N, C, H, W]; None = not that."""
    pads = node.args[1]
    zeros = node.kwargs.get("mode") == "constant" and not node.kwargs.get("value")
    if not zeros or not isinstance(pads, tuple | list) or len(pads) != 6:
        return None
    front, behind = cast("tuple[int, int]", tuple(pads[4:]))
    return (front, behind) if min(front, behind) >= 0 else None


def refusal(node: fx.Node, what: str) -> RecipeError:
    """The error that says what cannot be followed, and where."""
    where = node.target if node.op == "call_module" else node.name
    return RecipeError(f"strategy nnrelief: {where} {what}: {KNOWN}")
