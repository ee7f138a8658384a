"""What an update may say beside bool masks: soft ones, and which entries the optimizer moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from prunekit.errors import PluginError
from prunekit.foundation.transfer import read, send
from prunekit.pruning.counts import lanes
from prunekit.pruning.scores import NOT_FINITE
from prunekit.pruning.strategies.base import Masks, PruningStrategy, Update

SCALE = 1 << 30
"""A mean in [0, 1] is read of a device as a whole number of this many parts."""
OUT_OF_RANGE = "its soft mask must be in [0, 1], and 0 exactly where the mask is False"
VALUES_NOT_FINITE = "its values for what comes back are not finite"
NOT_MOVING = "what the mask keeps must be among the moving entries"


def check_beside(strategy: PruningStrategy, update: Update, params: Mapping[str, Tensor]) -> None:
    """Soft masks and moving entries must be of masks of this update, in mode `ste`.

    Raises:
        PluginError: the parameter, what was expected and what came.
    """
    if update.soft and not strategy.soft_masks:
        raise PluginError("update gave soft masks: say soft_masks = True in the class")
    if (update.soft or update.moving) and strategy.config.mode != "ste":
        raise PluginError(
            f"soft masks and moving entries need the dense weights of mode ste, not "
            f"{strategy.config.mode}: say modes = ('ste',)"
        )
    for what, kind, tensors in (
        ("soft mask", "floats", update.soft),
        ("moving entries", "bool", update.moving),
    ):
        for name, tensor in tensors.items():
            if name not in update.masks:
                raise PluginError(f"{name}: {what} without its mask in the same update")
            right = tensor.is_floating_point() if kind == "floats" else tensor.dtype == torch.bool
            if not right or tensor.shape != params[name].shape:
                raise PluginError(
                    f"{name}: expected {what} as {kind} of shape {tuple(params[name].shape)}, got "
                    f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                )


class BesideMasks:
    """Questions to the device about what an update has beside its masks, read with others.

    Args:
        update: what a strategy gave, checked.
        masks: its masks on the devices of their weights.
        params: these weights.
        comes: of those that are given values for it, the entries that come back, bool.
    """

    def __init__(
        self,
        update: Update,
        masks: Masks,
        params: Mapping[str, Tensor],
        comes: Masks = MappingProxyType({}),
    ) -> None:
        self._asked = [(name, NOT_FINITE, finite) for name, finite in update.finite.items()]
        for name, where in comes.items():
            self._asked.append((name, VALUES_NOT_FINITE, _finite_at(where, update.values[name])))
        for name, change in update.state.items():
            where = send(change.where, params[name].device)
            for key, value in change.values.items():
                if isinstance(value, Tensor):
                    what = f"its state {key!r} is to become what is not finite"
                    self._asked.append((name, what, _finite_at(where, value)))
        self.soft, self.moving = dict[str, Tensor](), dict[str, Tensor]()
        """In the dtype of the weight."""
        for name, soft in update.soft.items():
            given, mask = send(soft.detach(), params[name].device), masks[name]
            self._asked.append((name, OUT_OF_RANGE, _fits(given, mask)))
            self.soft[name] = _rounded(given, mask, params[name].dtype)
        for name, moving in update.moving.items():
            given, mask = send(moving, params[name].device), masks[name]
            self._asked.append((name, NOT_MOVING, (given | ~mask).all()))
            self.moving[name] = given.to(params[name].dtype)
        self._means = [(s.float().mean() * SCALE).nan_to_num() for s in self.soft.values()]

    @property
    def flags(self) -> list[Tensor]:
        """Tensors of one entry."""
        return [*(fits for _, _, fits in self._asked), *self._means]

    def heard(self, told: Iterable[int]) -> dict[str, float]:
        """The sums of the soft masks, of what was read of `flags`.

        Raises:
            PluginError: something does not fit.
        """
        told = [*told]
        for (name, wrong, _), fits in zip(self._asked, told, strict=False):
            if not fits:
                raise PluginError(f"{name}: {wrong}")
        means = told[len(self._asked) :]
        found = zip(self.soft.items(), means, strict=True)
        return {name: mean / SCALE * soft.numel() for (name, soft), mean in found}


def _finite_at(where: Tensor, values: Tensor) -> Tensor:
    return (send(values.detach(), where.device).isfinite() | ~where).all()


def _fits(soft: Tensor, mask: Tensor) -> Tensor:
    return ((soft >= 0) & (soft <= 1) & ((soft != 0) == mask)).all()


def _rounded(soft: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A soft mask in the weight's dtype: what is too small for it stays more than 0."""
    return soft.to(dtype, copy=True).clamp_min_(torch.finfo(dtype).tiny).masked_fill_(~mask, 0)


def taken_over(weight: Tensor, dense: Tensor, soft: Tensor) -> Tensor:
    """The dense weight under a soft mask, where a loop has written into W*M."""
    written = (weight != dense * soft) & (soft != 0)
    return torch.where(written, weight / soft, dense)


def fingerprints(tensors: Mapping[str, Tensor]) -> bytes:
    """Equal on two ranks where the tensors are; a device is waited for once."""
    found, asked = [], []
    for name in sorted(tensors):
        data = tensors[name].detach().contiguous().view(torch.uint8).flatten()
        if data.device.type == "cpu":
            found.append(name.encode() + hashlib.sha256(data.numpy().tobytes()).digest())
        else:
            asked += lanes(data)
    return b"".join([*found, repr(read(asked)).encode()])


def beside_fault(state: Mapping[str, Any], params: Mapping[str, Tensor]) -> str | None:
    """What of the soft masks and moving entries of a saved state does not fit; None = nothing."""
    for part in ("soft", "moving"):
        saved = state.get(part, {})  # earlier states have none
        if not isinstance(saved, Mapping):
            return f"no state of a Pruner: its {part!r} is {type(saved).__name__}"
        for name, tensor in saved.items():
            if name not in state["masks"]:
                return f"{part} {name} has no mask"
            if not isinstance(tensor, Tensor) or tensor.shape != params[name].shape:
                return f"{part} {name} does not have the shape of the weight"
    return None
