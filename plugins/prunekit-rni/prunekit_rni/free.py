"""Which channels can leave a model without changing the shape of anything that is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit import RecipeError
from prunekit_rni.sigbn import SigBN

NORMS = (nn.BatchNorm2d, SigBN)
"""Exactly these: a subclass may have an activation in it."""
KEEP_ZERO = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Tanh, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Modules that work channel by channel and turn a channel of zeros into zeros."""
KEEP_ZERO_FUNCTIONS = {
    "relu", "relu6", "leaky_relu", "gelu", "silu", "tanh", "dropout", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "contiguous",
}  # fmt: skip
"""Functions and methods of the same kind, as far as their arguments do not matter."""
Modules = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FreeLayer:
    """A convolution and its BatchNorm, whose channels only other layers' inputs stand for."""

    conv: str
    """Path of the convolution."""
    norm: str
    """Path of the BatchNorm right behind it."""


class _Tracer(fx.Tracer):
    """Looks into blocks, and at layers from the outside; subclasses of layers are layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = (nn.Conv2d, nn.Linear, _BatchNorm)
        return isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name)


def free_layers(model: nn.Module) -> tuple[tuple[FreeLayer, ...], dict[str, str]]:
    """The layers whose channels are free, in the order of execution, and why others are not.

    A channel is free if the convolution that makes it is followed by a `BatchNorm2d`, and what
    comes out of that reaches nothing but inputs of convolutions and linear layers, through layers
    that work channel by channel and keep zeros: then the channel can be taken out together with
    those inputs. In a residual block the channels that enter the addition are not free, as the
    other branch has them too.

    Returns:
        The layers, and for each other convolution its path and the reason.

    Raises:
        RecipeError: torch.fx cannot trace the model.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever a model's own code does with a proxy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"the channels of this model cannot be followed: torch.fx does not trace it ({reason}):"
            " use another model"
        ) from error
    modules = dict(model.named_modules())
    free, bound = list[FreeLayer](), dict[str, str]()
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d):
            try:
                free.append(_free(node, modules, graph))
            except _BoundError as reason:
                bound[node.target] = str(reason)
    return tuple(free), bound


class _BoundError(Exception):
    """Why the channels of a layer are not free."""


def _free(conv: fx.Node, modules: Modules, graph: fx.Graph) -> FreeLayer:
    if modules[str(conv.target)].groups != 1:
        raise _BoundError("its channels come in groups")
    following = list(conv.users)
    norm = following[0] if len(following) == 1 else conv
    if norm.op != "call_module" or type(modules[str(norm.target)]) not in NORMS:
        raise _BoundError("no BatchNorm2d follows it")
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in (conv, norm):
        if called.count(node.target) > 1:
            raise _BoundError(f"{node.target} is used more than once")
    for node, flat in _readers(norm, modules):
        _check_reader(node, flat, modules)
        if called.count(node.target) > 1:
            raise _BoundError(f"its channels enter {node.target}, which is used more than once")
    return FreeLayer(str(conv.target), str(norm.target))


def _readers(norm: fx.Node, modules: Modules) -> Iterator[tuple[fx.Node, bool]]:
    """What reads the channels behind `norm`, layers that keep zeros passed through.

    With each node, whether it reads [B, features] or still [B, C, H, W].
    """
    waiting, seen = [(norm, False)], set[fx.Node]()
    while waiting:
        node, flat = waiting.pop()
        for user in (user for user in node.users if user not in seen):
            seen.add(user)
            if _keeps_zero(user, modules):
                waiting.append((user, flat or _flattens(user, modules)))
            else:
                yield user, flat


def _operation(node: fx.Node, modules: Modules) -> str:
    """What a node does, in a word: `conv2d`, `relu`, `add`, `flatten`."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__.lower()
    return str(getattr(node.target, "__name__", node.target)).rstrip("_")


def _keeps_zero(node: fx.Node, modules: Modules) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.Flatten):
            return (module.start_dim, module.end_dim) == (1, -1)
        return isinstance(module, KEEP_ZERO)
    if node.op not in ("call_function", "call_method"):
        return False
    name = _operation(node, modules)
    argument: Any = node.args[1] if len(node.args) > 1 else None
    if name == "flatten":
        end: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
        return bool(node.kwargs.get("start_dim", argument) == 1 and end == -1)
    if name == "mean":  # over height and width, or channels are mixed
        dims: Any = node.kwargs.get("dim", argument)
        return isinstance(dims, list | tuple) and {int(d) % 4 for d in dims} == {2, 3}
    return name in KEEP_ZERO_FUNCTIONS


def _flattens(node: fx.Node, modules: Modules) -> bool:
    return _operation(node, modules) in ("flatten", "mean")


def _check_reader(node: fx.Node, flat: bool, modules: Modules) -> None:
    """The channels may be inputs of a convolution or a linear layer, and nothing else."""
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return
    if isinstance(module, nn.Linear) and flat:
        return
    operation = _operation(node, modules)
    raise _BoundError(
        {
            "add": "its channels enter an addition",
            "iadd": "its channels enter an addition",
            "output": "its channels are outputs of the model",
        }.get(operation, f"its channels enter {operation} ({node.name})")
    )
