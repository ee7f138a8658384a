"""What an optimizer remembers of a parameter: to be read, and to be changed at single entries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunekit.errors import PluginError, RecipeError


@dataclass(frozen=True, slots=True)
class StateChange:
    """What becomes of the optimizer state of some entries of a parameter: `Update.state`.

    In `hard` and `masked` that of pruned weights stays 0, whatever is asked.
    """

    where: Tensor
    """Bool of the parameter's shape: at which entries."""
    values: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Key of `ctx.optimizer_state(name)` -> what it is to hold there, a number or a tensor of the
    parameter's shape; other keys stay. Empty: all of it goes back to what optimizers start from, 0
    for moments. A count of steps is of the whole parameter and stays, so that a bias correction
    does not begin again there."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of an optimizer's state."""

    shown: str
    """Its key in `optimizer_state`."""
    key: str
    tensor: Tensor
    optimizer: Optimizer

    @property
    def is_count(self) -> bool:
        """Whether it is of the parameter as a whole, as a count of steps."""
        return self.key == "step" or self.tensor.ndim == 0

    def start(self, param: Tensor, dense: Tensor) -> Tensor | float:
        """What the optimizer begins with."""
        group = next(
            group
            for group in self.optimizer.param_groups
            if any(param is other for other in group["params"])
        )
        who = type(self.optimizer).__name__
        if self.key in COPIES:
            return dense
        return float(group.get(STARTS.get((who, self.key), ""), ONES.get((who, self.key), 0.0)))


STARTS = {("Adagrad", "sum"): "initial_accumulator_value", ("Rprop", "step_size"): "lr"}
"""Optimizer and key -> the setting that it starts from."""
ONES = {("RMSpropTF", "square_avg"): 1.0}
"""Optimizer and key -> the number that it starts from, which is no setting."""
COPIES = {"ax", "lookahead_slow_buff", "x0"}
"""Keys of ASGD, and of timm's Lookahead and MADGRAD, that start as a copy of the weight."""
MADE_ONCE = (torch.optim.Adagrad,)
"""Those that may make their state when they are built, as in torch 2.11, and never again."""


def held_state(param: Tensor, optimizers: Sequence[Optimizer]) -> Mapping[str, Tensor]:
    """The tensors that these optimizers hold of a parameter, read-only; empty before a step.

    Where several hold it, keys of the second and later ones end in `#1`, `#2`.
    """
    found = {one.shown: one.tensor.detach() for one in _entries(param, optimizers)}
    return MappingProxyType(found)


def refuse_state(
    changes: Mapping[str, StateChange], params: Mapping[str, Any], optimizers: Sequence[Optimizer]
) -> None:
    """What cannot be changed is refused before anything is.

    Raises:
        RecipeError: an optimizer does not hold state entry by entry.
        PluginError: there is no such state.
    """
    for name, change in changes.items():
        param = params[name]
        entries = {one.shown: one for one in _entries(param, optimizers)}
        for key in change.values:
            if key not in entries:
                held = ", ".join(entries) or "none, before its first step"
                raise PluginError(f"{name}: no optimizer holds a state {key!r} of it; held: {held}")
        for key, one in entries.items():
            asked = key in change.values or (not change.values and not one.is_count)
            if asked and one.tensor.shape != param.shape:
                raise RecipeError(
                    f"{name}: {type(one.optimizer).__name__} holds {one.key} of it in shape "
                    f"{list(one.tensor.shape)}, not entry by entry as {list(param.shape)}, and "
                    "the strategy changes single entries: use an optimizer such as AdamW or SGD"
                )


@torch.no_grad()
def change_state(
    param: Tensor, dense: Tensor, change: StateChange, optimizers: Sequence[Optimizer]
) -> None:
    """Forget or set the state of the entries that `change` names; see `refuse_state`.

    Args:
        param: the parameter.
        dense: what it holds when an optimizer moves it.
        change: what to do.
        optimizers: those that may hold it.
    """
    where = change.where.to(param.device)
    for one in _entries(param, optimizers):
        if not change.values and not one.is_count:
            value = one.start(param, dense)
        elif one.shown in change.values:
            value = change.values[one.shown]
        else:
            continue
        if isinstance(value, Tensor):
            one.tensor.copy_(torch.where(where, value.to(one.tensor), one.tensor))
        else:
            one.tensor.masked_fill_(where, value)


@torch.no_grad()
def mask_state(param: Tensor, by: Tensor, optimizers: Sequence[Optimizer]) -> None:
    """Zero what these optimizers hold of the entries where `by` is 0.

    Args:
        param: the parameter.
        by: of its shape and dtype, 0 and 1.
        optimizers: those that may hold it.
    """
    for optimizer in optimizers:
        for state in _entry_by_entry(param, optimizer):
            state.mul_(by if state.is_floating_point() else by.bool())


@torch.no_grad()
def forget_state(param: Tensor, optimizers: Sequence[Optimizer]) -> None:
    """Let these optimizers begin anew with all of a parameter."""
    for optimizer in optimizers:
        state = optimizer.state.get(param, {})
        if state.keys() == {"momentum_buffer"}:  # fused SGD wants all of a group or none
            for momentum in _entry_by_entry(param, optimizer):
                momentum.zero_()
        elif isinstance(optimizer, MADE_ONCE):
            for one in _entries(param, [optimizer]):
                one.tensor.fill_(one.start(param, param))
        else:
            state.clear()


def _entry_by_entry(param: Tensor, optimizer: Optimizer) -> Iterator[Tensor]:
    for key, value in optimizer.state.get(param, {}).items():
        # a count of steps has the shape of a parameter without dimensions
        if isinstance(value, Tensor) and value.shape == param.shape and key != "step":
            yield value


def digest_of(changes: Mapping[str, StateChange], of_masks: bytes) -> bytes:
    """SHA-256 that is another where the changes or the masks are; of no change, that of those."""
    if not changes:
        return of_masks
    sha = hashlib.sha256(of_masks)
    for name, change in sorted(changes.items()):
        sha.update(name.encode() + change.where.cpu().numpy().tobytes())
        for key, value in sorted(change.values.items()):
            held = value if isinstance(value, Tensor) else torch.tensor(float(value))
            sha.update(key.encode() + held.detach().double().cpu().contiguous().numpy().tobytes())
    return sha.digest()


def _entries(param: Tensor, optimizers: Sequence[Optimizer]) -> Iterator[_Entry]:
    holders = [one for one in optimizers if one.state.get(param)]
    for place, optimizer in enumerate(holders):
        for key, value in optimizer.state[param].items():
            if isinstance(value, Tensor):
                yield _Entry(f"{key}#{place}" if place else key, key, value, optimizer)
