"""The optimizers of torch and timm, with their arguments as settings. Imports torch."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, create_model, model_validator
from torch.optim import Optimizer

from prunekit.foundation.suggestions import did_you_mean
from prunekit.recipe.optimizers import OWN, OtherOptimizer
from prunekit.registry.installed import UnknownNameError

TIMM = "timm:"
NOT_SET = frozenset(
    {"self", "params", "lr", "weight_decay"}
    | {"foreach", "fused", "capturable", "differentiable", "maximize", "caution_mode"}
)
"""Arguments that are the optimizer's affair, or stand for how and not for what is computed."""
REFUSED = ("lbfgs", "muon", "sparseadam")
"""Of torch, not named to who misspelt another: a run takes them in no mode, as they want a closure,
matrices alone or sparse gradients."""


class StockClass(NamedTuple):
    """A class, and the defaults that its name stands for."""

    cls: type[Optimizer]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    """Arguments of that name that cannot be set."""


@cache
def torch_classes() -> dict[str, type[Optimizer]]:
    """Name in small letters -> class, of all that this torch has."""
    found = {name.lower(): getattr(torch.optim, name) for name in sorted(dir(torch.optim))}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
    }


@cache
def timm_names() -> list[str]:
    """The names of timm's registry, without those of packages that timm only wraps."""
    inside, known = ("timm.", "torch."), _timm_optim()
    names: list[str] = known.list_optimizers()
    return [n for n in names if _home(known.get_optimizer_info(n).opt_class).startswith(inside)]


def _timm_optim() -> Any:
    import timm.optim

    return timm.optim


def _home(cls: Any) -> str:
    return str(getattr(cls, "__module__", "")) if isinstance(cls, type) else ""


@cache
def stock_class(name: str) -> StockClass:
    """What a name stands for.

    Raises:
        UnknownNameError: nothing; what is near, and where timm is not installed how to have it.
    """
    if name in torch_classes():
        return StockClass(torch_classes()[name], {}, {})
    if not name.startswith(TIMM):
        known = [*OWN, *(n for n in torch_classes() if n not in OWN)]
        raise UnknownNameError(
            f"no optimizer is called {name!r}.{did_you_mean(name, known)} Known: "
            f"{', '.join(n for n in known if n not in REFUSED)}, and those of timm, as timm:lion"
        )
    if importlib.util.find_spec("timm") is None:
        raise UnknownNameError(f"{name} needs timm, which is not there: pip install prunekit[timm]")
    own = name.removeprefix(TIMM)
    if own not in timm_names():
        near = did_you_mean(own, timm_names())
        raise UnknownNameError(
            f"timm has no optimizer {own!r}.{near} See timm.optim.list_optimizers()"
        )
    info = _timm_optim().get_optimizer_info(own)
    defaults = {**({"momentum": 0.9} if info.has_momentum else {}), **(info.defaults or {})}
    fixed = {key: value for key, value in defaults.items() if key in NOT_SET}
    return StockClass(info.opt_class, defaults, fixed)


class _Tried(OtherOptimizer):
    """Settings that its class has been made with once."""

    @model_validator(mode="after")
    def _takes_its_arguments(self) -> Self:
        try_arguments(self.name, self.lr, self.arguments())
        return self


@cache
def other_config(name: str) -> type[OtherOptimizer]:
    """The settings of an optimizer, made of the signature of its class."""
    stock = stock_class(name)
    signature = inspect.signature(stock.cls).parameters
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key, parameter in signature.items():
        default = stock.defaults.get(key, parameter.default)
        if key not in NOT_SET and (kind := _kind(default)) is not None:
            fields[key] = (kind, default)
    fields["weight_decay"] = (float, _decay(stock, signature))
    return create_model(
        f"{stock.cls.__name__}Config", __base__=_Tried, __doc__=_summary(stock), **fields
    )


def _decay(stock: StockClass, signature: Mapping[str, inspect.Parameter]) -> Any:
    """None where the class has no weight decay: then it cannot be another than 0."""
    text = "Weight decay, as its class has it."
    if "weight_decay" not in signature:
        return Field(default=0.0, ge=0, le=0, description=text)
    default = stock.defaults.get("weight_decay", signature["weight_decay"].default)
    default = 0.0 if default in (None, inspect.Parameter.empty) else float(default)
    return Field(default=default, ge=0, description=text)


def _kind(default: Any) -> Any:
    """The type of an argument with this default; None of what is no plain value."""
    if default is None:
        return Annotated[float | bool | str | tuple[float | None, ...] | None, "plain"]
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int):  # a momentum of 0 may become 0.9
        return int | float
    if isinstance(default, float):
        return float
    if isinstance(default, tuple) and all(isinstance(v, int | float | None) for v in default):
        return tuple.__class_getitem__(tuple(_kind_of_item(v) for v in default))
    return None


def _kind_of_item(value: Any) -> Any:
    return float | None if value is None else int | float


def _summary(stock: StockClass) -> str:
    return f"`{stock.cls.__module__}.{stock.cls.__name__}`."


def make_optimizer(
    name: str, groups: list[dict[str, Any]], lr: float, arguments: Mapping[str, Any]
) -> Optimizer:
    """An optimizer of these groups."""
    stock = stock_class(name)
    with warnings.catch_warnings():  # of packages that would make it faster
        warnings.simplefilter("ignore")
        made: Optimizer = stock.cls(groups, lr=lr, **{**arguments, **stock.fixed})  # type: ignore[call-arg]
    return made


def try_arguments(name: str, lr: float, arguments: Mapping[str, Any]) -> None:
    """Make one of a weight that no one needs.

    Raises:
        ValueError: its class refuses the arguments.
    """
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    try:
        make_optimizer(name, [{"params": [weight]}], lr, arguments)
    except Exception as error:  # whatever a class of others raises
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} refuses its settings: {text}") from error
