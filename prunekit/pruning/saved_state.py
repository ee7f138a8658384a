"""What a saved state must hold to fit the Pruner that loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunekit.errors import UsageError
from prunekit.pruning.assignment import Assigned
from prunekit.pruning.soft import beside_fault

PARTS = ("step", "masks", "strategies", "targets", "probes")
"""What a saved state holds at least."""


def check_state(
    state: Mapping[str, Any],
    dense: Mapping[str, Tensor],
    assigned: Sequence[Assigned],
    probes: Sequence[object],
    params: Mapping[str, Tensor],
) -> None:
    """A state that was saved must be of this model, these strategies and these probes.

    Raises:
        UsageError: what does not fit, the first of it by name.
    """
    cover = {name: params[name] for one in assigned for name in one.cover}
    fault = (
        _parts_fault(state)
        or _kind_fault(state)
        or _number_fault("strategies", state, len(assigned))
        or _number_fault("targets", state, len(assigned))
        or _number_fault("probes", state, len(probes))
        or masks_fault(state["masks"], dense, cover)
        or beside_fault(state, cover)
        or _shape_fault("dense", dense, params)
    )
    refuse(fault)


def refuse(fault: str | None, cause: Exception | None = None) -> None:
    """Say what of a saved state does not fit, where something does not.

    Raises:
        UsageError: something does not.
    """
    if fault:
        raise UsageError(
            f"load_state_dict: {fault}: build the Pruner as the one that was saved, of the plain "
            "module and with the same strategies"
        ) from cause


def _parts_fault(state: object) -> str | None:
    if not isinstance(state, Mapping):
        return f"{type(state).__name__} is no state of a Pruner"
    lost = [part for part in PARTS if part not in state]
    return f"no state of a Pruner: it has no {lost[0]!r}" if lost else None


def _kind_fault(state: Mapping[str, Any]) -> str | None:
    """Whether each part is of the kind that it must be, whatever is in it."""
    lists = dict.fromkeys(("strategies", "targets", "probes"), Sequence)
    kinds: dict[str, type] = {"step": int, "masks": Mapping} | lists
    for part, kind in kinds.items():
        if not isinstance(state[part], kind):
            return f"no state of a Pruner: its {part!r} is {type(state[part]).__name__}"
    return None


def masks_fault(masks: object, dense: object, params: Mapping[str, Tensor]) -> str | None:
    """Saved masks of some of `params`, with dense weights of these; None where all fit."""
    for what, values in (("masks", masks), ("dense weights", dense)):
        if not isinstance(values, Mapping):
            return f"the {what} are {type(values).__name__}, not tensors by name"
    assert isinstance(masks, Mapping)
    assert isinstance(dense, Mapping)
    if lost := [name for name in masks if name not in params]:
        return f"it has a mask of {lost[0]}, which is in no scope here"
    own = {name: params[name] for name in masks}
    for name, mask in masks.items():
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            return f"the mask of {name} is {mask.dtype}, not bool"
    return _shape_fault("the mask of", masks, own) or _shape_fault("dense", dense, own)


def _number_fault(kind: str, state: Mapping[str, Any], here: int) -> str | None:
    saved = len(state[kind])
    return None if saved == here else f"it was saved with {saved} {kind}, here are {here}"


def _shape_fault(
    what: str, saved: Mapping[str, Tensor], params: Mapping[str, Tensor]
) -> str | None:
    for name, param in params.items():
        if name not in saved:
            return f"{what} {name} is missing"
        if not isinstance(saved[name], Tensor):
            return f"{what} {name} is {type(saved[name]).__name__}, not a tensor"
        if saved[name].shape != param.shape:
            shape, own = tuple(saved[name].shape), tuple(param.shape)
            return f"{what} {name} has shape {shape}, here {own}"
    return None
