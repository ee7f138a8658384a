"""Weights that a layer computes from parameters before it uses them, as their modules declare it.

Parametrizations (`torch.nn.utils.parametrize`), and the hooks of the older `weight_norm` and
`spectral_norm` and of `torch.nn.utils.prune`. What a forward does by itself, as layers with weight
standardisation do, is only seen in a pass: `foundation/operands.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prunekit.foundation.modules import evaluating
from prunekit.foundation.parameters import ATTENTION_WEIGHTS, WEIGHTED, Holders

KNOWN = {
    "_WeightNorm": "weight_norm",
    "_SpectralNorm": "spectral_norm",
    "_Orthogonal": "orthogonal",
}
"""torch's own parametrizations, as they are asked for."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A weight that is no parameter, but computed from some."""

    name: str
    """Where it is read: `0.weight`."""
    sources: tuple[str, ...]
    """The parameters that it is computed from."""
    reason: str
    """By what: `weight_norm`, `spectral_norm`, `nn.utils.prune`, or a parametrization's class."""
    layer: frozenset[str]
    """The names of the class of the module that holds it, and of its bases."""
    compute: Callable[[Mapping[str, Tensor]], Tensor] = field(repr=False, compare=False)
    """The weight from values of the sources; those left out are as they are. Changes nothing."""

    @property
    def by_default(self) -> bool:
        """Whether a default scope would hold it, were it a parameter."""
        own = self.name.rpartition(".")[2]
        attention = own in ATTENTION_WEIGHTS and "MultiheadAttention" in self.layer
        return attention or (own == "weight" and bool(WEIGHTED & self.layer))


def computed_weights(model: nn.Module) -> list[Computed]:
    """Every such weight of a model, in its order; one that is no parameter's is left out."""
    holders = Holders(model)
    found = [
        one
        for path, module in model.named_modules()
        for one in (*_parametrized(path, module, holders), *_hooked(path, module, holders))
    ]
    return [one for one in found if one.sources]


def keeps_zeros(weight: Computed, model: nn.Module) -> str | None:
    """The source whose zeros are just the zeros of the weight, found by trying; None: none is."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    generator = torch.Generator().manual_seed(0)
    for name in weight.sources:
        try:
            value = parameters[name].detach()
            noise = torch.rand(value.shape, generator=generator).to(value.device)
            kept = noise > 0.5
            if kept.ndim > 1:
                kept[:, :1] = True  # no row is empty: 0/0 is another matter
            start = torch.where(value == 0, torch.ones_like(value), value)
            made = weight.compute({name: start * kept})
            whole = weight.compute({name: start})
        except Exception:  # a foreign parametrization may refuse whatever it likes
            continue
        if made.shape == kept.shape and torch.equal(made != 0, kept & (whole != 0)):
            return name
    return None


def _parametrized(path: str, module: nn.Module, holders: Holders) -> Iterator[Computed]:
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, nn.ModuleDict):
        return
    for own, one in lists.items():
        if isinstance(one, ParametrizationList):
            named = _names(dict(one.named_parameters()), holders)
            yield Computed(
                name=_join(path, own),
                sources=tuple(named.values()),
                reason=" and ".join(_called(step) for step in one),
                layer=_classes(module),
                compute=_compute_list(one, named),
            )


def _called(step: nn.Module) -> str:
    name = type(step).__name__
    return KNOWN.get(name, f"the parametrization {name}")


def _compute_list(
    one: ParametrizationList, named: Mapping[str, str]
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    @torch.no_grad()
    def compute(values: Mapping[str, Tensor]) -> Tensor:
        given = {inner: values[name] for inner, name in named.items() if name in values}
        with evaluating(one):  # spectral_norm iterates in training
            made: Tensor = functional_call(one, given, ())
        return made

    return compute


def _hooked(path: str, module: nn.Module, holders: Holders) -> Iterator[Computed]:
    for hook in module._forward_pre_hooks.values():
        ends: tuple[str, ...] = ("_orig",)
        if isinstance(hook, WeightNorm):
            own, ends, reason = hook.name, ("_g", "_v"), "weight_norm"
        elif isinstance(hook, SpectralNorm):
            own, reason = hook.name, "spectral_norm"
        elif isinstance(hook, BasePruningMethod):
            own, reason = hook._tensor_name, "nn.utils.prune"
        else:
            continue
        held = _names({own + end: getattr(module, own + end, None) for end in ends}, holders)
        yield Computed(
            name=_join(path, own),
            sources=tuple(held.values()),
            reason=reason,
            layer=_classes(module),
            compute=_compute_hook(hook, module, held),
        )


def _compute_hook(
    hook: WeightNorm | SpectralNorm | BasePruningMethod,
    module: nn.Module,
    held: Mapping[str, str],
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """What the hook would leave in the module, from a stand-in for it."""

    @torch.no_grad()
    def compute(values: Mapping[str, Tensor]) -> Tensor:
        tensors = dict(module.named_parameters(recurse=False)) | dict(
            module.named_buffers(recurse=False)
        )
        tensors |= {own: values[name] for own, name in held.items() if name in values}
        stand_in: Any = SimpleNamespace(**tensors)
        iterated = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
        act: Any = hook.apply_mask if isinstance(hook, BasePruningMethod) else hook.compute_weight
        made: Tensor = act(stand_in, **iterated)
        return made

    return compute


def _names(parameters: Mapping[str, Tensor | None], holders: Holders) -> dict[str, str]:
    """What a module calls its parameters -> what the model does."""
    named = {own: holders.name_of(parameter) for own, parameter in parameters.items()}
    return {own: name for own, name in named.items() if name is not None}


def _classes(module: nn.Module) -> frozenset[str]:
    return frozenset(base.__name__ for base in type(module).__mro__)


def _join(path: str, own: str) -> str:
    return f"{path}.{own}" if path else own
