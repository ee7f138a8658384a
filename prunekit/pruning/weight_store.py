"""Weights beside the model: how pruned weights live in each mode.

At rest every parameter holds W*M. Module tree, `state_dict` keys, DDP and compile are untouched:

- `ste`: the optimizer moves the dense W. It is kept beside the model and swapped in through `.data`
  for the length of `optimizer.step()`. Held memory: +8 bytes a weight (W and a working mask). The
  working mask may be soft; where only some entries move, +4 bytes more.
- `hard`: pruned weights, their gradients and optimizer state are zero. They are zeroed once, when
  the mask changes; masking the gradient then keeps them exactly zero. +4 bytes a weight.
- `masked`: as `hard`, and a shelf holds the pruned values until they come back. +8 bytes a weight.

The working mask has the weight's own dtype: multiplying by bool costs 2.5 to 10 times as much on a
CPU. Bool masks are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from prunekit.pruning.rewrite import AtRest
from prunekit.pruning.scores import count_each
from prunekit.pruning.soft import BesideMasks, taken_over
from prunekit.pruning.strategies.base import Masks
from prunekit.registry.configs import Mode


class WeightStore:
    """The weights of some parameters as their modes keep them.

    Owns every tensor that lies beside the model, and writes W*M into it between steps. Knows
    nothing of optimizers: their state of pruned weights is `AttachedOptimizers`' to zero.

    Args:
        params: canonical parameter name -> parameter, all of them kept at first.
        modes: the mode of each of them.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], modes: Mapping[str, Mode]) -> None:
        self.params = dict(sorted(params.items()))
        self.modes = dict(modes)
        self.working: dict[str, Tensor] = {}
        """Masks in W's dtype, 1 = kept; absent = all kept."""
        self.soft: dict[str, float] = {}
        """Names whose working mask is soft -> the sum of it."""
        self.moving: dict[str, Tensor] = {}
        """In `ste`, W's dtype, 1 = moves; absent = all move."""
        self.apart: dict[str, Tensor] = {}
        """In `ste` the dense W; in `masked` the shelf."""
        self.perturbed: dict[str, Tensor] = {}
        """Dense W of a pass at other weights: what stands for those that are kept apart."""

    # ---- what is kept

    def mask(self, name: str) -> Tensor:
        """Bool mask of one parameter, True = kept."""
        working = self.working.get(name)
        if working is None:
            return torch.ones_like(self.params[name], dtype=torch.bool)
        return working.bool()

    def factor(self, name: str) -> Tensor:
        """What W of one parameter is multiplied by: a soft mask, or the bool one."""
        return self.working[name] if name in self.soft else self.mask(name)

    def dense(self, name: str) -> Tensor:
        """Dense W: what the optimizer moves in `ste`, kept and shelved values in `masked`."""
        weight = self.params[name].detach()
        if name not in self.apart:
            return weight
        if name in self.perturbed:
            return self.perturbed[name]
        if self.modes[name] == "ste":
            return self.apart[name]
        return torch.where(self.mask(name), weight, self.apart[name])

    @torch.no_grad()
    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W, as rewinding and loading do; the mask stays in force."""
        param = self.params[name]
        if name not in self.apart:
            working = self.working.get(name)
            param.data.copy_(value if working is None else torch.where(working != 0, value, 0.0))
            return
        self.apart[name].copy_(value)
        param.data.copy_(torch.where(self.mask(name), self.apart[name], 0.0))
        if name in self.soft:
            param.data.mul_(self.working[name])

    def correct(self, values: Mapping[str, Tensor]) -> None:
        """Write dense W; in `masked` what is kept, and the shelf stays."""
        for name, value in values.items():
            own = value
            if self.modes[name] == "masked" and name in self.apart:
                own = torch.where(self.mask(name), value, self.apart[name])
            self.set_dense(name, own)

    def follow(self) -> None:
        """Bring what is kept beside a model to where that was moved or cast since."""
        for kept in (self.working, self.apart, self.moving):
            for name, tensor in kept.items():
                param = self.params[name]
                if tensor.dtype != param.dtype or tensor.device != param.device:
                    kept[name] = tensor.to(param)

    # ---- another mask

    def in_blocks(self, names: Iterable[str]) -> dict[str, AtRest]:
        """What can be written in blocks."""
        found = {}
        for name in self.working.keys() & names:
            own, mode = self.apart.get(name), self.modes[name]
            dense, shelf = (own, None) if mode == "ste" else (None, own)
            found[name] = AtRest(self.params[name].data, self.working[name], dense, shelf)
        return {name: kept for name, kept in found.items() if kept.fits}

    def replace(self, name: str, new: Tensor, values: Tensor | None = None) -> None:
        """Put a mask in force, with `values` for what it brings back."""
        param = self.params[name]
        dense = param.data if self.modes[name] == "hard" else self._up_to_date(name)
        if values is not None:
            torch.where(new & ~self.mask(name), values.to(dense), dense, out=dense)
        if name not in self.working:
            self.working[name] = torch.empty_like(param)
        working = self.working[name]
        working.copy_(new.view(torch.uint8))  # from bool it takes three times as long
        torch.mul(dense, working, out=param.data)

    def _up_to_date(self, name: str) -> Tensor:
        """Dense W where it is kept in `ste` and `masked`, up to date."""
        weight = self.params[name].data
        if name not in self.apart:
            self.apart[name] = weight.clone()
        elif self.modes[name] == "masked":
            torch.where(self.mask(name), weight, self.apart[name], out=self.apart[name])
        return self.apart[name]

    def put_beside(self, name: str, beside: BesideMasks, sums: Mapping[str, float]) -> None:
        """Soft values and moving entries in force with the mask of a name, which is."""
        self.soft.pop(name, None)
        self.moving.pop(name, None)
        if name in beside.soft:
            self.working[name].copy_(beside.soft[name])
            self.soft[name] = sums[name]
            torch.mul(self.apart[name], self.working[name], out=self.params[name].data)
        if name in beside.moving:
            self.moving[name] = beside.moving[name]

    @torch.no_grad()
    def fold(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Multiply soft masks into the dense weights of what is kept; the masks are bool then.

        Returns:
            What the dense weights were multiplied by, of those of `names` that were soft.
        """
        names = [name for name in names if name in self.soft]
        factors = {name: torch.where(self.mask(name), self.working[name], 1) for name in names}
        for name, factor in factors.items():
            self.apart[name].mul_(factor)
            self.working[name].copy_(self.mask(name))
            self.params[name].data.copy_(self.apart[name] * self.working[name])
            self.soft.pop(name)
        return factors

    # ---- zeros

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights in `hard` and `masked`; `ste` keeps them dense, but
        of entries that do not move."""
        grads, masks = [], []
        for name, working in self.working.items():
            grad = self.params[name].grad
            by = self.moving.get(name) if self.modes[name] == "ste" else working
            if by is not None and grad is not None:
                grads.append(grad)
                masks.append(by)
        if grads:
            torch._foreach_mul_(grads, masks)

    @torch.no_grad()
    def zero_pruned(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Write W*M once more; how many pruned weights of which parameters were not zero."""
        names = self.working.keys() if names is None else tuple(names)
        counts = count_each(self.not_zero(name) for name in names)
        moved = {name: found for name, found in zip(names, counts, strict=True) if found}
        for name in moved:
            self.params[name].data.masked_fill_(~self.mask(name), 0)
        return moved

    def not_zero(self, name: str) -> Tensor:
        """Which pruned weights of a parameter are not zero."""
        return self.params[name].data.bool() & ~self.working[name].bool()

    def take_over(self, name: str) -> None:
        """What was written into W*M holds in the dense W of `ste`, too."""
        dense, weight = self.apart[name], self.params[name].data
        if name in self.soft:
            dense.copy_(taken_over(weight, dense, self.working[name]))
        else:
            torch.where(self.mask(name), weight, dense, out=dense)

    # ---- saving

    def state_dict(self) -> dict[str, Masks]:
        """Masks in force, and what is beside them; no weights."""
        saved: dict[str, Masks] = {"masks": {name: self.mask(name).cpu() for name in self.working}}
        if self.soft:
            saved["soft"] = {name: self.working[name].cpu() for name in self.soft}
        if self.moving:
            saved["moving"] = {name: moving.bool().cpu() for name, moving in self.moving.items()}
        return saved

    def load(self, name: str, mask: Tensor, dense: Tensor) -> None:
        """Take back a mask and the dense weight under it, bit for bit."""
        self.params[name].data.copy_(dense)
        self.working.pop(name, None)
        self.apart.pop(name, None)
        self.replace(name, mask)
