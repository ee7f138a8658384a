"""Who steps weights that masks are for: looked at before each `optimizer.step` of the process.

An optimizer that was never attached, or a step after `finish`, would let pruned weights grow again
without a word.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from prunekit.errors import UsageError
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.step_hooks import held_by


class Watcher(Protocol):
    """Whom to ask about the steps of some parameters."""

    def before(self, optimizer: Optimizer) -> None:
        """A step of this optimizer is about to move one of them; may refuse by an error."""

    def after(self, param: nn.Parameter) -> None:
        """It moved this one."""


_watchers: dict[int, tuple[weakref.ref[nn.Parameter], Watcher]] = {}
"""By the id of a parameter, for as long as that lives."""
_hooks: list[Any] = []


def watch(params: Iterable[nn.Parameter], watcher: Watcher) -> None:
    """Ask `watcher` about all steps of these parameters from here on, and no one else."""
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before))
        _hooks.append(register_optimizer_step_post_hook(_after))
    for param in params:
        key = id(param)
        gone = weakref.ref(param, lambda _, key=key: _watchers.pop(key, None))  # type: ignore[misc]
        _watchers[key] = gone, watcher


def unwatch(params: Iterable[nn.Parameter]) -> None:
    """Ask no one about these any more."""
    for param in params:
        _watchers.pop(id(param), None)


def watchers_of(params: Iterable[nn.Parameter]) -> list[Watcher]:
    """Who is asked about these, each once."""
    found = (_watchers[id(param)][1] for param in params if id(param) in _watchers)
    return list({id(watcher): watcher for watcher in found}.values())


def _found(optimizer: Optimizer) -> list[tuple[nn.Parameter, Watcher]]:
    if not _watchers:
        return []
    params = (param for group in optimizer.param_groups for param in group["params"])
    return [(p, _watchers[id(p)][1]) for p in params if id(p) in _watchers]


def _before(optimizer: Optimizer, *_: Any) -> None:
    for watcher in {id(watcher): watcher for _, watcher in _found(optimizer)}.values():
        watcher.before(optimizer)


def _after(optimizer: Optimizer, *_: Any) -> None:
    for param, watcher in _found(optimizer):
        watcher.after(param)


class Owner(Protocol):
    """A loop that has masks for the parameters."""

    @property
    def mask_set(self) -> MaskSet:
        """The masks."""

    def make_way(self) -> None:
        """Another loop masks these weights now."""


class Unattached:
    """Refuses the steps of optimizers that were not attached; forgets a loop that is gone."""

    def __init__(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)

    def make_way(self, other: Owner) -> None:
        """Let another loop have the weights."""
        owner = self._owner()
        if owner is not None and owner is not other:
            owner.make_way()

    def before(self, optimizer: Optimizer) -> None:
        """Attached ones may, and those that an attached one calls."""
        owner = self._owner()
        if owner is None or owner.mask_set.in_step:
            return
        if any(optimizer is own for own in owner.mask_set.optimizers):
            return
        held, params = held_by(optimizer), owner.mask_set.params
        name = next(name for name, param in params.items() if id(param) in held)
        raise UsageError(
            f"optimizer.step of {type(optimizer).__name__}: it moves {name}, which is pruned, and "
            "is not attached: call pruner.attach(optimizer) with all that move pruned weights"
        )

    def after(self, param: nn.Parameter) -> None:
        """Attached ones have hooks of their own."""


class Refused:
    """Lets no optimizer step the parameters, and says why.

    Args:
        why: in one line, with the remedy.
    """

    def __init__(self, why: str) -> None:
        self.why = why

    def before(self, optimizer: Optimizer) -> None:
        """Refuse."""
        raise UsageError(self.why)

    def after(self, param: nn.Parameter) -> None:
        """Not reached."""


class ZerosKept:
    """Puts the zeros of a finished model back after each step.

    Args:
        masks: parameter -> bool of its shape, True = kept.
    """

    def __init__(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        self._pruned = {id(param): ~mask for param, mask in masks.items()}

    def before(self, optimizer: Optimizer) -> None:
        """Any optimizer may."""

    @torch.no_grad()
    def after(self, param: nn.Parameter) -> None:
        """Zero what is pruned."""
        param.data.masked_fill_(self._pruned[id(param)].to(param.device), 0)
