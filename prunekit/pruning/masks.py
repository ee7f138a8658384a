"""Masks beside the model: how pruned weights live in each mode, around any optimizer.

At rest every parameter holds W*M. Module tree, `state_dict` keys, DDP and compile are untouched:

- `ste`: the optimizer moves the dense W. It is kept beside the model and swapped in through `.data`
  for the length of `optimizer.step()`. Held memory: +8 bytes a weight (W and a working mask).
- `hard`: pruned weights, their gradients and optimizer state are zero. They are zeroed once, when
  the mask changes; masking the gradient then keeps them exactly zero. +4 bytes a weight.
- `masked`: as `hard`, and a shelf holds the pruned values until they come back. +8 bytes a weight.

The working mask has the weight's own dtype: multiplying by bool costs 2.5 to 10 times as much on a
CPU. Bool masks are made when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from prunekit.errors import DivergedError, PluginError, UsageError
from prunekit.pruning.scores import count_true
from prunekit.pruning.strategies.base import Masks, Update
from prunekit.registry.configs import Mode


class MaskSet:
    """The masks of some parameters, and the weights as their modes keep them."""

    def __init__(self, params: Mapping[str, nn.Parameter], modes: Mapping[str, Mode]) -> None:
        """Take charge of `params`, all of them kept at first.

        Args:
            params: canonical parameter name -> parameter, of the plain module.
            modes: the mode of each of them.
        """
        self.params = dict(sorted(params.items()))
        self.modes = dict(modes)
        self._working: dict[str, Tensor] = {}  # W's dtype, 1 = kept; absent = all kept
        self._dense: dict[str, Tensor] = {}  # ste: W.  masked: the shelf
        self._optimizer: Optimizer | None = None
        self._hooks: list[RemovableHandle] = []
        self._unproven = False  # masks or optimizer changed, and no step was looked at since
        self._effective: list[Tensor] = []  # ste, inside optimizer.step: where W*M goes back to

    # ---- what strategies, checkpoints and reports read

    def mask(self, name: str) -> Tensor:
        """Bool mask of one parameter, True = kept."""
        working = self._working.get(name)
        if working is None:
            return torch.ones_like(self.params[name], dtype=torch.bool)
        return working.bool()

    def masks(self) -> dict[str, Tensor]:
        """Bool masks of all parameters, in the order of their names."""
        return {name: self.mask(name) for name in self.params}

    def dense(self, name: str) -> Tensor:
        """Dense W: what the optimizer moves in `ste`, kept and shelved values in `masked`."""
        weight = self.params[name].detach()
        if name not in self._dense:
            return weight
        if self.modes[name] == "ste":
            return self._dense[name]
        return torch.where(self.mask(name), weight, self._dense[name])

    def digest(self) -> bytes:
        """SHA-256 of the packed masks: equal on two ranks exactly where the masks are."""
        import numpy as np

        sha = hashlib.sha256()
        for name in self.params:
            sha.update(name.encode())
            sha.update(np.packbits(self.mask(name).cpu().numpy()).tobytes())
        return sha.digest()

    def follow(self) -> None:
        """Bring what is kept beside a model to where that was moved or cast since."""
        for kept in (self._working, self._dense):
            for name, tensor in kept.items():
                param = self.params[name]
                if tensor.dtype != param.dtype or tensor.device != param.device:
                    kept[name] = tensor.to(param)

    # ---- changing masks

    @torch.no_grad()
    def apply(self, update: Update, cover: Iterable[str]) -> dict[str, int]:
        """Put new masks in force; return the flips of each tensor that was given one."""
        flips = {}
        for name, new in update.masks.items():
            old = self.mask(name)
            new = new.to(old.device)
            flips[name] = count_true(old ^ new)
            if flips[name] or name not in self._working:
                self._replace(name, old, new, update.values.get(name))
        if update.restart:
            self._forget_state(cover)
        self._unproven = True
        return flips

    def _replace(self, name: str, old: Tensor, new: Tensor, values: Tensor | None) -> None:
        param, mode = self.params[name], self.modes[name]
        dense = param.data if mode == "hard" else self._kept_apart(name, old)
        if values is not None:
            torch.where(new & ~old, values.to(dense), dense, out=dense)
        if name not in self._working:
            self._working[name] = torch.empty_like(param)
        working = self._working[name]
        working.copy_(new.view(torch.uint8))  # from bool it takes three times as long
        torch.mul(dense, working, out=param.data)
        if mode != "ste":
            for state in self._state_tensors(param):
                state.mul_(working if state.is_floating_point() else new)

    def _kept_apart(self, name: str, old: Tensor) -> Tensor:
        """Dense W where it is kept in `ste` and `masked`, up to date."""
        weight = self.params[name].data
        if name not in self._dense:
            self._dense[name] = weight.clone()
        elif self.modes[name] == "masked":
            torch.where(old, weight, self._dense[name], out=self._dense[name])
        return self._dense[name]

    @torch.no_grad()
    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W, as rewinding and loading do; the mask stays in force."""
        param = self.params[name]
        if name not in self._dense:
            working = self._working.get(name)
            param.data.copy_(value if working is None else torch.where(working != 0, value, 0.0))
            return
        self._dense[name].copy_(value)
        param.data.copy_(torch.where(self.mask(name), self._dense[name], 0.0))

    # ---- around the optimizer

    def attach(self, optimizer: Optimizer) -> None:
        """Hook into `optimizer.step`; the hooks of an earlier optimizer are removed.

        Raises:
            UsageError: a parameter of the set that learns is not in this optimizer.
        """
        held = {id(param) for group in optimizer.param_groups for param in group["params"]}
        for name, param in self.params.items():
            if param.requires_grad and id(param) not in held:
                raise UsageError(
                    f"{name} is pruned but not in this optimizer: give one optimizer all of them"
                )
        self.detach()
        self._optimizer = optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_optimizer),
            optimizer.register_step_post_hook(self._after_optimizer),
        ]
        self._unproven = True

    def detach(self) -> None:
        """Remove the hooks; the parameters hold W*M."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._optimizer = None

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights in `hard` and `masked`; `ste` keeps them dense."""
        grads, masks = [], []
        for name, working in self._working.items():
            grad = self.params[name].grad
            if self.modes[name] != "ste" and grad is not None:
                grads.append(grad)
                masks.append(working)
        if grads:
            torch._foreach_mul_(grads, masks)

    def _forget_state(self, names: Iterable[str]) -> None:
        if self._optimizer is None:
            return
        for name in names:
            state = self._optimizer.state.get(self.params[name], {})
            if state.keys() == {"momentum_buffer"}:  # fused SGD wants all of a group or none
                for momentum in self._state_tensors(self.params[name]):
                    momentum.zero_()
            else:
                state.clear()

    def _ste(self) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
        for name, working in self._working.items():
            if self.modes[name] == "ste":
                yield self.params[name], self._dense[name], working

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # a closure would run forward and backward on what the hooks put in place for the step
        if kwargs.get("closure") is not None or any(callable(a) for a in args[1:]):
            raise UsageError("optimizer.step(closure) does not go with masks: call step() alone")
        self._effective = []
        for param, dense, _working in self._ste():
            self._effective.append(param.data)
            param.data = dense

    @torch.no_grad()
    def _after_optimizer(self, *_: Any) -> None:
        for effective, (param, dense, working) in zip(self._effective, self._ste(), strict=True):
            param.data = torch.mul(dense, working, out=effective)
        if self._unproven:
            self._prove_zeros()
            self._unproven = False

    def _prove_zeros(self) -> None:
        """Look once after each change: an optimizer that mixes entries would move pruned ones."""
        for name, working in self._working.items():
            param = self.params[name]
            moved = param.bool() & ~working.bool()
            if self.modes[name] != "ste" and bool(moved.any()):
                optimizer = type(self._optimizer).__name__
                if not bool(param.isfinite().all()):
                    raise DivergedError(
                        f"{name} is not finite after a step of {optimizer}: weights in "
                        f"{str(param.dtype).removeprefix('torch.')} need a larger eps there, or "
                        "keep them in float32 and compute under autocast"
                    )
                raise PluginError(
                    f"optimizer {optimizer} moved pruned weights of {name}, whose gradient and "
                    f"state are zero: use mode ste, or an optimizer that works entry by entry"
                )

    def _state_tensors(self, param: nn.Parameter) -> Iterator[Tensor]:
        if self._optimizer is not None:
            for key, value in self._optimizer.state.get(param, {}).items():
                # a count of steps has the shape of a parameter without dimensions
                if isinstance(value, Tensor) and value.shape == param.shape and key != "step":
                    yield value

    # ---- saving

    def state_dict(self) -> dict[str, Masks]:
        """Masks in force; dense weights, those that a mask hides too, are saved by the caller."""
        return {"masks": {name: self.mask(name).cpu() for name in self._working}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Masks], dense: Mapping[str, Tensor]) -> None:
        """Take back masks and dense weights, bit for bit."""
        for name, mask in state["masks"].items():
            param = self.params[name]
            param.data.copy_(dense[name])
            self._working.pop(name, None)
            self._dense.pop(name, None)
            self._replace(name, torch.ones_like(mask).to(param.device), mask.to(param.device), None)
